"""Stages of an example: commands that are shown and run, their times, and the error rates of their results."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w2v.errors import ConfigError, TrainingError
from w2v.functional.edit_distance import edit_distance

REPOSITORY = Path(__file__).resolve().parents[1]


class Run:
    """The folder of one run, and what its finished stages took.

    Args:
        folder: where everything is written; made if it does not exist.
        threads: of each program.

    Attributes:
        stages: name -> wall and processor seconds of each stage that has ended, kept in `stages.json`.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "stages.json"
        self.stages: dict[str, dict[str, float]] = {}
        if self._file.is_file():
            self.stages = json.loads(self._file.read_text(encoding="utf-8"))

    @contextmanager
    def stage(self, name: str, headline: str | None = None) -> Iterator[None]:
        """Print a headline, and write down the wall and processor seconds of the block, if it ends well."""
        print(f"\n== {headline or name}", flush=True)
        begin, used = time.monotonic(), _processor_seconds()
        yield
        self.stages[name] = {"wall": time.monotonic() - begin, "cpu": _processor_seconds() - used}
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.stages, indent=1), encoding="utf-8")
        temporary.replace(self._file)

    def is_done(self, name: str) -> bool:
        """Whether an earlier run ended this stage."""
        if name in self.stages:
            print(f"\n== {name}: done before")
        return name in self.stages

    def call(self, program: str, *arguments: str | Path, log: Path | None = None) -> None:
        """Show and run a program: `w2v-train` is `python -m w2v_cli.train`, a script is run as it is.

        Args:
            program: its name, or the path of a script.
            arguments: its arguments.
            log: file to append its output to, instead of showing it.

        Raises:
            TrainingError: the program failed; without `log` it has said why.
        """
        words = [str(argument) for argument in arguments]
        print(f"$ {shown([program, *words])}" + (f"  # output in {log}" if log else ""), flush=True)
        how = ["-m", f"w2v_cli.{program.removeprefix('w2v-')}"] if program.startswith("w2v-") else [program]
        search = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        # Threads of tiny models mostly wait for each other. Where they spin meanwhile, and another program runs on the
        # machine, a second thread makes an update five times slower instead of faster.
        threads = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        environment = {**os.environ, **threads, "PYTHONPATH": search}
        command = [sys.executable, *how, *words]
        if log is None:
            code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
        else:
            with open(log, "ab") as file:
                code = subprocess.run(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
                ).returncode
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2] if log else ""
            raise TrainingError(f"{program} ended with exit code {code}" + (f": {last}" if last else ""))

    def seconds(self) -> dict[str, dict[str, float]]:
        """Return wall and processor seconds by stage, and of `all` together."""
        total = {kind: sum(stage[kind] for stage in self.stages.values()) for kind in ("wall", "cpu")}
        return {**self.stages, "all": total}

    def write_results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `results.json`: the rows, and what each stage took."""
        content = {"results": rows, "seconds": self.seconds()}
        (self.folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def show_times(self) -> None:
        """Print what each stage took, and all together."""
        print("\n   wall s    cpu s")
        for name, seconds in self.seconds().items():
            print(f"{seconds['wall']:9.1f}{seconds['cpu']:9.1f}  {name}")
        print(f"\nEverything is in {self.folder}.")


def packs(data: Path, needed: Sequence[str]) -> Path:
    """Return a folder of speech that holds the packs needed.

    Raises:
        ConfigError: one is missing there.
    """
    missing = [name for name in needed if not (data / name).exists()]
    if missing:
        raise ConfigError(f"--data {data}: there is no {missing[0]}")
    return data


def _processor_seconds() -> float:
    """Return user and system time of all programs that were called and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(words: Sequence[str]) -> str:
    """Return a command line that can be pasted into a shell, a new line before a flag where it would grow too long."""
    lines, line = [], ""
    for word in map(shlex.quote, words):
        if line and word.startswith("--") and len(line) > 90:
            lines.append(f"{line} \\")
            line = "   "
        line += f" {word}" if line else word
    return "\n".join([*lines, line])


def counts(flags: Mapping[str, int]) -> list[str]:
    """Return flags that take a number as words of a command line."""
    return [word for flag, number in flags.items() for word in (flag, str(number))]


def read_results(path: Path) -> dict[int, str]:
    """Return text by clip from lines `text (None-ID)`, as `w2v-infer --results-path` writes them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.rpartition("(None-") for line in lines)
    return {int(number.rstrip(")")): text.strip() for text, _, number in pairs}


def word_errors(hypotheses: Mapping[int, str], references: Mapping[int, str]) -> dict[str, float]:
    """Return the errors, the words of the references, and the word error rate in percent."""
    errors = sum(edit_distance(text.split(), hypotheses[clip].split()) for clip, text in references.items())
    words = sum(len(text.split()) for text in references.values())
    return {"errors": errors, "words": words, "wer": round(100 * errors / max(words, 1), 2)}
