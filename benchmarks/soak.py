"""A rehearsal of months: a tiny run under a random driver, held against a plain model of its folder after every step.

    nice python benchmarks/soak.py [--steps 10000] [--hours 1] [--seed 1] [--keep FOLDER]

At each step the driver may damage the folder (files removed, cut short or with other times, a `checkpoint_last.pt` that
leads nowhere, a lost count of starts), and then trains on for some updates under flags that change (validations,
workers, ranks). While it trains, it may be killed at any step of training or of writing, be signalled, or find the disk
full. Then the folder must hold what the model says: the newest update, the best ever validated, the N best, the files
of updates, weights equal to the bit to those of a run in one piece (to rounding, once two ranks were part of it), and
there must be log lines for every update.

Exit code 0: no difference. A difference names its seed and step. Runs are forked, so a step takes a fraction of a
second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/training")]

import torch  # noqa: E402
from child import Ended, at_call, train_in_children  # noqa: E402
from toy_training import make_trainer  # noqa: E402

from w2v.checkpoint import file as checkpoint_file  # noqa: E402
from w2v.checkpoint import load_checkpoint  # noqa: E402
from w2v.errors import CheckpointError  # noqa: E402

PER_EPOCH = 6  # updates: eleven batches, two for each
LONGEST = 60  # updates of a run, then a new one begins
SCORES = [round(3 + random.Random(n).random(), 2) + 1e-7 * (n % 3) for n in range(LONGEST + 20)]
"""The score of each update: many are equal in two decimals, some are equal."""
MOMENTS: dict[str, Callable[[Any, int, Callable[[], Any]], None]] = {
    "micro-batch": lambda trainer, n, act: at_call(n, trainer.task, "train_step", act),
    "step": lambda trainer, n, act: at_call(n, trainer.optimizer, "step", act),
    "validation": lambda trainer, n, act: at_call(n, trainer.task, "valid_step", act),
    "writing": lambda trainer, n, act: at_call(4 * n, checkpoint_file._Recorder, "write", act),
    "fsync": lambda trainer, n, act: at_call(n, os, "fsync", act),
    "renaming": lambda trainer, n, act: at_call(n, os, "replace", act),
    "linking": lambda trainer, n, act: at_call(n, os, "link", act),
    "removing": lambda trainer, n, act: at_call(n, Path, "unlink", act),
}


class DifferenceError(Exception):
    """The folder does not hold what the model says."""


@dataclass
class Model:
    """What the folder must hold.

    Attributes:
        newest: updates of the newest checkpoint.
        best: (score, update) of the best, None if none is known.
        kept: the N best, best first.
        validated: updates whose scores count in this line of history.
        due: updates with a file of their own, oldest first.
        exact: no second rank has taken part, so weights are the reference's to the bit.
        started: whether there is a checkpoint.
    """

    newest: int = 0
    best: tuple[float, int] | None = None
    kept: list[tuple[float, int]] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    exact: bool = True
    logged: set[int] = field(default_factory=set)

    def validate(self, update: int, keep: int) -> None:
        score = SCORES[update]
        if self.best is None or score < self.best[0]:
            self.best = (score, update)
        self.kept = sorted([*(entry for entry in self.kept if entry[1] != update), (score, update)])[:keep]


def check(holds: bool, text: str) -> None:
    if not holds:
        raise DifferenceError(text)


def by_score(trainer: Any) -> None:
    """Give every validation the score of its update."""
    step, criterion = trainer.task.valid_step, type(trainer.criterion)

    def valid_step(*arguments: Any) -> Any:
        loss = step(*arguments)
        return replace(loss, value=torch.tensor(SCORES[trainer.num_updates] * loss.sample_size, dtype=torch.float64))

    trainer.task.valid_step = valid_step
    criterion.summarize = staticmethod(
        lambda sums: {"loss": sums["loss"] / sums["sample_size"], "ntokens": sums["ntokens"]}
    )


def reference() -> dict[int, dict[str, torch.Tensor]]:
    """Return the weights after each update of a run in one piece."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, {**BASE, "optimization": {"update_freq": (2,), "max_update": LONGEST}})
        trainer.checkpoint = replace(trainer.checkpoint, no_save=True)
        trainer.dataset = replace(trainer.dataset, disable_validation=True)
        found: dict[int, dict[str, torch.Tensor]] = {}
        resolve = trainer._resolve_previous_update

        def kept() -> None:
            resolve()
            found[trainer.num_updates] = {k: v.clone() for k, v in trainer.model.state_dict().items()}

        trainer._resolve_previous_update = kept  # type: ignore[method-assign]
        trainer.train()
        return found


BASE: dict[str, Any] = {"model": {"dropout": 0.3}, "common": {"log_interval": 1}}


class Driver:
    """Takes random steps, and compares.

    Args:
        folder: for all runs.
        rng: all that is random.
    """

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder, self.rng = folder, rng
        self.counts: Counter[str] = Counter()
        self.weights = reference()
        self.save = folder / "run"
        self.model = Model()
        self.flags: dict[str, Any] = {}
        self.new_run()

    def new_run(self) -> None:
        shutil.rmtree(self.save, ignore_errors=True)
        self.save.mkdir()
        self.model = Model()
        self.counts["runs"] += 1
        self.flags = {"keep_best_checkpoints": self.rng.choice([-1, 2, 3]), "keep_interval_updates": -1}
        self.interval = self.rng.choice([0, 2, 3, 5])

    def step(self) -> None:
        if self.model.newest >= LONGEST - 10:
            self.new_run()
        if self.model.newest and self.rng.random() < 0.2:
            self.damage()
        self.train(self.rng.random() < 0.5)

    # ------------------------------------------------------------------------------------------ training

    def train(self, has_fault: bool) -> None:
        rng, model = self.rng, self.model
        validate = rng.choice([0, 1, 2, 4])
        target = model.newest + rng.randint(0, 7)
        ranks = 2 if rng.random() < 0.1 else 1
        options: dict[str, Any] = {
            **BASE,
            "optimization": {"update_freq": (2 // ranks,), "max_update": max(target, 1)},
            "checkpoint": {**self.flags, "save_interval_updates": self.interval, "no_epoch_checkpoints": True},
            "dataset": {"validate_interval_updates": validate},
            "task": {"num_workers": rng.choice([0, 0, 0, 1])},
        }
        fault, name = self.fault() if has_fault else (None, "none")
        self.counts[f"fault {name}"] += 1

        def spoil(trainer: Any) -> None:
            by_score(trainer)
            if fault is not None:
                fault(trainer)

        ended = train_in_children(self.save, options, spoil, ranks, faulty=0, others=by_score)
        self.counts[f"code {ended[0].code}"] += 1
        check(ended[0].code in (0, 2, 3, -signal.SIGKILL), f"code {ended[0].code}: {ended[0].log[-3000:]}")
        check("Traceback" not in ended[0].log, ended[0].log[-3000:])
        self.compare(ended[0], max(target, 1), ranks)

    def fault(self) -> tuple[Callable[[Any], None], str]:
        moment, count = self.rng.choice(list(MOMENTS)), self.rng.randint(1, 8)
        kind = self.rng.choice(["kill", "kill", "signal", "full"])
        if kind == "full":
            return lambda trainer: at_call(count, trainer.optimizer, "step", _fill_the_disk), "full disk"
        number = signal.SIGKILL if kind == "kill" else self.rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
        return (
            lambda trainer: MOMENTS[moment](trainer, count, lambda: os.kill(os.getpid(), number)),
            f"{kind} in {moment}",
        )

    # ------------------------------------------------------------------------------------------ comparing

    def compare(self, ended: Ended, target: int, ranks: int) -> None:
        model, before = self.model, self.model.newest
        files = self.files()
        newest = max(files.values(), default=0)
        loaded = re.search(r"loaded checkpoint \S+ \(epoch \d+ @ (\d+) updates\)", ended.log)
        if loaded or ended.code == 0:  # else it ended before it could say so
            found = int(loaded[1]) if loaded else 0
            check(found == before, f"resumed from {found}, not from {before}")
        check(before <= newest <= max(target, before), f"the newest file has {newest} updates, of {target}")
        if ended.code == 0 and "a signal asked" not in ended.log:
            check(newest == max(target, before), f"the newest file has {newest} updates, not {target}")
        model.newest = newest
        model.exact &= ranks == 1
        for update in _updates(ended.log, "valid", "valid_num_updates"):
            if update <= newest:
                model.validate(update, max(self.flags["keep_best_checkpoints"], 0))
        if self.interval:
            model.due += [n for n in range(before + 1, newest + 1) if n % self.interval == 0]
        if ended.code == -signal.SIGKILL:
            self.compare_half_done(files)
        else:
            self.compare_files(files)
        self.compare_logs(ended.log, before, newest)
        self.compare_weights(files)

    def compare_files(self, files: dict[str, int]) -> None:
        model, names = self.model, set(files)
        if not files:
            check(model.best is None, "there is no file")
            return
        if model.best is not None:
            check(files.get("checkpoint_best.pt") == model.best[1], f"best: {files}, wanted {model.best}")
        kept = {f"checkpoint.best_loss_{score:.2f}_{update}.pt" for score, update in model.kept}
        found = {name for name in names if "best_loss" in name}
        check(found == kept, f"N best: {sorted(found)}, wanted {sorted(kept)}")
        due = {int(re.findall(r"\d+", name)[1]) for name in names if re.fullmatch(r"checkpoint_\d+_\d+\.pt", name)}
        check(due == set(model.due), f"files of updates: {sorted(due)}, wanted {model.due}")

    def compare_half_done(self, files: dict[str, int]) -> None:
        """Compare after a kill: names of the newest update may be missing, and files be there that are kept no more."""
        model = self.model
        best = model.best
        check(best is None or best[1] == model.newest or best[1] in files.values(), f"best: {files}, wanted {best}")
        kept = {f"checkpoint.best_loss_{score:.2f}_{n}.pt" for score, n in model.kept if n != model.newest}
        check(kept <= set(files), f"N best: {sorted(files)}, wanted {sorted(kept)}")
        due = {n for n in model.due if n != model.newest}
        found = {int(re.findall(r"\d+", name)[1]) for name in files if re.fullmatch(r"checkpoint_\d+_\d+\.pt", name)}
        check(due <= found <= set(model.due), f"files of updates: {sorted(found)}, wanted {model.due}")

    def compare_logs(self, log: str, before: int, newest: int) -> None:
        logged = _updates(log, "train_inner", "num_updates")
        check(logged == list(range(before + 1, before + 1 + len(logged))), f"log lines of updates {logged}")
        self.model.logged |= set(logged)
        check(set(range(1, newest + 1)) <= self.model.logged, f"no log lines for all of {newest} updates")
        starts = set(_updates(log, "train_inner", "start"))
        check(len(starts) <= 1, f"starts {starts} in one log")

    def compare_weights(self, files: dict[str, int]) -> None:
        for name, update in files.items():
            if update != self.model.newest:
                continue
            state = load_checkpoint(self.save / name)
            for key, tensor in self.weights[update].items():
                ours = state["model"][key]
                same = ours.equal(tensor) if self.model.exact else ours.allclose(tensor, rtol=1e-3, atol=1e-4)
                check(same, f"{name}: {key} differs")
            break

    def files(self) -> dict[str, int]:
        """Return the updates of every whole checkpoint of the folder."""
        found = {}
        for path in self.save.glob("checkpoint*.pt"):
            try:
                found[path.name] = load_checkpoint(path)["trainer"]["num_updates"]
            except CheckpointError:
                self.counts["damaged files seen"] += 1
        return found

    # ------------------------------------------------------------------------------------------ damage

    def damage(self) -> None:
        """Remove or cut files, or change their times, and let the model forget what is lost with them."""
        kind = self.rng.choice(["remove", "remove", "cut", "times", "dangling", "starts"])
        paths = sorted(self.save.glob("checkpoint*.pt"))
        chosen = self.rng.sample(paths, self.rng.randint(1, max(1, len(paths) // 2)))
        self.counts[f"damage {kind}"] += 1
        if kind == "times":
            for path in paths:
                os.utime(path, (self.rng.random() * 1e9,) * 2)
        elif kind == "starts":
            (self.save / ".starts").write_text(self.rng.choice(["", "x", "0"]))
        elif kind == "dangling":
            last = self.save / "checkpoint_last.pt"
            last.unlink(missing_ok=True)
            last.symlink_to(self.save / "gone.pt")
        else:
            for path in chosen:
                if kind == "remove":
                    path.unlink(missing_ok=True)
                else:
                    os.truncate(path, path.stat().st_size // 2)  # and with it all other names of the file
        self.forget()

    def forget(self) -> None:
        model, files = self.model, self.files()
        if not files:
            self.new_run()
            return
        model.newest = max(files.values())
        whole = set(files.values())
        model.due = [n for n in model.due if any(name.endswith(f"_{n}.pt") for name in files if "best" not in name)]
        state = load_checkpoint(self.save / next(name for name in files if files[name] == model.newest))
        scores = state["trainer"]["scores"]
        model.kept = [(score, n) for score, n in map(tuple, scores["kept"]) if n in whole]
        model.best = (scores["best"], scores["best_update"]) if scores["best_update"] in whole else None
        # A file that is lost is made again under its name, if it was one of the newest update's.
        if self.interval and model.newest % self.interval == 0 and "checkpoint_last.pt" not in files:
            model.due = sorted({*model.due, model.newest})


def _fill_the_disk() -> None:
    checkpoint_file.RETRY_PAUSE = 0.0

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    os.fsync = full


def _updates(log: str, tag: str, key: str) -> list[int]:
    marked = f"| INFO | {tag} | "
    return [int(json.loads(line.split(marked)[1])[key]) for line in log.splitlines() if marked in line]


def main() -> int:
    """Take the steps, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="copy the folder there when it differs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    end, steps = time.monotonic() + 3600 * options.hours, 0
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), random.Random(options.seed))
        while steps < options.steps and time.monotonic() < end:
            steps += 1
            try:
                driver.step()
            except DifferenceError as e:
                if options.keep:
                    shutil.copytree(folder, options.keep, dirs_exist_ok=True, symlinks=True)
                print(f"seed {options.seed}, step {steps}: {e}", flush=True)
                return 1
    print(f"seed {options.seed}: {steps} steps without a difference")
    for name, count in sorted(driver.counts.items()):
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
