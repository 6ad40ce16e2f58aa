"""Kills training runs at random moments, again and again, and compares how they end with runs that nobody disturbs.

    python benchmarks/random_kills.py [--kills 100] [--kinds wav2vec2,ctc] [--seed 1]

Each kind of model is trained by `w2v-train` on the toy language of the tests: two epochs with crops or padding, masks,
negatives, dropout, LayerDrop, accumulation, validations, and a checkpoint after every third update. A run is killed
(`kill -9`, its workers are left to themselves) at a random moment of its training and started again with the same
command and another number of workers, until it ends; then all of its last checkpoint but the times must equal, to the
bit, that of a run in one piece. Runs are forked from this process, so that the kills fall into training and not into
imports. Exit code 0: all were equal.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/helpers"), str(REPOSITORY / "tests/training")]

import torch  # noqa: E402
from child import assert_same, final_state  # noqa: E402
from toy_speech import ADAM, CONV, prepare, pretraining  # noqa: E402

from w2v_cli import train  # noqa: E402

COMMON: list[Any] = [
    "--cpu", "--log-format", "json", "--log-interval", 2, "--max-update", 24, "--update-freq", 2, "--batch-size", 4,
    "--save-interval-updates", 3, "--keep-interval-updates", 2, "--no-epoch-checkpoints", "--max-sample-size", 8000,
    "--lr-scheduler", "polynomial_decay", "--total-num-update", 100, "--warmup-updates", 10, "--lr", 0.001,
    "--max-tokens", 64000, "--validate-interval-updates", 4, "--patience", 50, *ADAM,
]  # fmt: skip
WAV2VEC: list[Any] = [
    "--arch", "wav2vec", "--criterion", "wav2vec", "--infonce", "--num-negatives", 5, "--prediction-steps", 3,
    "--conv-feature-layers", "[(32, 10, 5), (32, 8, 4), (32, 4, 4)]", "--dropout", 0.1, "--dropout-features", 0.1,
    "--conv-aggregator-layers", "[(32, 2, 1), (32, 3, 1)]", "--skip-connections-agg", "--vq-vars", 8,
]  # fmt: skip
ENCODER = (
    f'{{"conv_feature_layers": "{CONV}", "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 64, '
    '"encoder_attention_heads": 4, "conv_pos": 16, "conv_pos_groups": 4}'
)
CTC = ["--arch", "wav2vec_ctc", "--criterion", "ctc", "--labels", "ltr", "--w2v-args", ENCODER, "--zero-infinity",
       "--apply-mask", "--dropout", 0.1, "--layerdrop", 0.2, "--feature-grad-mult", 0.5,
       "--freeze-finetune-updates", 5, "--max-sample-size", 200_000]  # fmt: skip
KINDS: dict[str, list[Any]] = {
    "wav2vec": WAV2VEC,
    "vq-wav2vec gumbel": [*WAV2VEC, "--vq-type", "gumbel", "--loss-weights", "[1]", "--log-keys", "temp"],
    "vq-wav2vec kmeans": [*WAV2VEC, "--vq-type", "kmeans", "--loss-weights", "[1]", "--enable-padding"],
    "wav2vec2": ["--encoder-layerdrop", 0.2],
    "ctc": CTC,
}
READY = "begin training epoch"


class Run:
    """One start of a run, in a forked child; `more` flags win."""

    def __init__(self, kind: str, data: Path, folder: Path, num_workers: int, *more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        more = (*KINDS[kind], *COMMON, "--num-workers", num_workers, *more)
        plain = [data, "--save-dir", folder, *more]
        arguments = [str(item) for item in (pretraining(data, folder, *more) if kind == "wav2vec2" else plain)]
        self.log.write_bytes(b"")
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            stack = contextlib.ExitStack()
            try:
                torch.set_num_threads(1)
                stream = stack.enter_context(self.log.open("w"))
                stack.enter_context(contextlib.redirect_stdout(stream))
                stack.enter_context(contextlib.redirect_stderr(stream))
                code = train.main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                stack.close()
                os._exit(code)

    def ended(self) -> bool:
        """Return whether it has ended by itself.

        Raises:
            RuntimeError: it has ended with an error.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid and os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError(f"a run ended with status {status}:\n{self.log.read_text()[-3000:]}")
        return pid != 0

    def wait(self) -> None:
        """Wait for its end."""
        while not self.ended():
            time.sleep(0.01)

    def kill_after(self, seconds: float) -> bool:
        """Kill it so many seconds after it has begun to train; return whether that came in time."""
        while READY not in self.log.read_text():
            if self.ended():
                return False
            time.sleep(0.005)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.ended():
                return False
            time.sleep(min(0.005, max(deadline - time.monotonic(), 0.0)))
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return True


def assert_same_end(ours: Path, theirs: Path, kind: str) -> None:
    """Compare the last checkpoints of two runs: all but the times, and what of the command line may differ."""
    states = [final_state(folder) for folder in (ours, theirs)]
    for state in states:
        for section, name in (("dataset", "num_workers"), ("checkpoint", "save_dir"), ("task", "data")):
            state["config"].get(section, {}).pop(name, None)
    assert_same(*states, kind)


def torment(
    kind: str, data: Path, folder: Path, kills: int, rng: random.Random, data_of_killed: Path | None = None
) -> dict[str, int]:
    """Kill runs of a kind so many times, let the last one end, and compare every end; return counts.

    Args:
        kind: of model.
        data: folder of the run that nobody disturbs.
        folder: where runs are saved.
        kills: how many.
        rng: draws the moments.
        data_of_killed: folder of the runs that are killed, with the same clips; None: the same folder.
    """
    begin = time.monotonic()
    Run(kind, data, folder / "whole", 0).wait()
    duration = time.monotonic() - begin
    counts = {"kills": 0, "while writing": 0, "ends compared": 0}
    place = folder / "0"
    while True:
        limit = math.inf if counts["kills"] >= kills else rng.uniform(0, duration / 2)
        if Run(kind, data_of_killed or data, place, rng.choice([0, 0, 1, 2])).kill_after(limit):
            counts["kills"] += 1
            counts["while writing"] += any(place.glob("*.tmp"))
            continue
        assert_same_end(place, folder / "whole", kind)
        counts["ends compared"] += 1
        if counts["kills"] >= kills:
            return counts
        place = folder / str(counts["ends compared"])


def main() -> int:
    """Torment every kind, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="in all, shared among the kinds")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds, rng = options.kinds.split(","), random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder), 60)
        for number, kind in enumerate(kinds):
            kills = options.kills // len(kinds) + (number < options.kills % len(kinds))
            counts = torment(kind, data, Path(folder) / kind, kills, rng)
            print(f"{kind}: " + ", ".join(f"{count} {name}" for name, count in counts.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
