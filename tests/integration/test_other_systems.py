"""What macOS and Windows lack is taken away: the programs still run from recordings to a resumed model and its words.

Only names that w2v itself would use are taken away, after the packages that it stands on have been imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from w2v import system

REPOSITORY = Path(__file__).resolve().parents[2]

WINDOWS = """
import json, logging, multiprocessing, multiprocessing.context, os, signal, sys, tempfile, threading
import numpy, safetensors, soundfile, soxr, tensorboardX, torch, tqdm, yaml
import torch.distributed, torch.utils.data, torch.utils.checkpoint
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
gone = {
    signal: ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCHLD", "SIGURG", "SIGKILL", "SIGALRM", "pthread_kill",
             "pthread_sigmask"),
    os: ("O_NONBLOCK", "O_CLOEXEC", "fork", "register_at_fork", "sched_getaffinity", "pread", "pwrite", "sysconf",
         "statvfs", "killpg", "setsid", "mkfifo", "getuid", "wait4", "fchmod"),
}
for module, names in gone.items():
    for name in names:
        delattr(module, name)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
for name in ("fork", "forkserver"):
    multiprocessing.context._concrete_contexts.pop(name)

sys.path.insert(0, sys.argv[1])
from pathlib import Path
import toy_speech
from w2v import system
from w2v_cli import infer, manifest, train, transcribe
from w2v_cli.decode_workers import WorkerPool
from w2v_cli.main import run
folder = Path(sys.argv[2])
data = toy_speech.prepare(folder, 12, valid_percent=0.2)
said = {"signals": [s.name for s in system.ENDING_SIGNALS]}
said["memory"] = [system.peak_memory(), system.physical_memory()]
def call(name, main, arguments):
    done = toy_speech.call(main, arguments)
    said[name] = [done.code, done.out, done.err]
call("pretrain", train.main, toy_speech.pretraining(data, folder / "pt", "--max-update", 2, "--log-interval", 1))
call("resume", train.main, toy_speech.pretraining(data, folder / "pt", "--max-update", 3, "--log-interval", 1))
call("dry run", train.main, toy_speech.pretraining(data, folder / "dry", "--dry-run"))
tuned = toy_speech.finetuning(data, folder / "ft", folder / "pt/checkpoint_last.pt", "--max-update", 2)
call("finetune", train.main, [*tuned, "--validate-after-updates", 0])
model = folder / "ft/checkpoint_last.pt"
call("pack", manifest.main, [data / "valid.tsv", "--shards", folder / "shards", "--shard-size", "60K"])
inference = [folder / "shards", "--path", model, "--gen-subset", "valid", "--labels", "ltr", "--cpu"]
inference += ["--post-process", "letter"]
call("infer", infer.main, [*inference, "--results-path", folder / "results"])
call("workers", lambda arguments: run(lambda: WorkerPool(print, 2)), [])
call("transcribe", transcribe.main, [model, folder / "audio", "--cpu", "--output-dir", folder / "texts"])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What each program said: exit code, stdout, stderr."""
    folder = tmp_path_factory.mktemp("windows")
    command = [sys.executable, "-c", WINDOWS, str(REPOSITORY / "tests/helpers"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_programs_run_without_what_windows_lacks(said: dict[str, list]) -> None:
    assert said["signals"] == ["SIGTERM", "SIGINT"]
    assert said["memory"] == [None, None]
    for program in ("pretrain", "resume", "finetune", "pack", "infer", "transcribe"):
        code, _, err = said[program]
        assert code == 0, f"{program}: {err}"
        assert "Traceback" not in err
    assert "cannot be locked" in said["pretrain"][1] + said["pretrain"][2]


def test_what_cannot_be_done_there_is_one_line(said: dict[str, list]) -> None:
    for program, expected in (("workers", "cannot copy a process"), ("dry run", "does not tell how much memory")):
        code, out, err = said[program]
        assert code == 2, out + err
        assert [expected in line for line in err.splitlines() if "error: " in line] == [True]
        assert "Traceback" not in err


def test_peak_memory_is_in_bytes_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what Linux itself tells in /proc; macOS counts bytes where Linux counts kilobytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    told = int(line.split()[1]) * 1024
    found = system.peak_memory()
    assert found == pytest.approx(told, rel=0.05)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert system.peak_memory() == pytest.approx(found / 1024, rel=0.05)


def test_cores_where_a_process_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.usable_cores() == os.cpu_count()


def test_nothing_else_names_what_a_system_lacks() -> None:
    """The names lie in `w2v/system.py`, or under a condition that was looked at."""
    names = ("fcntl", "resource.", "SIGUSR1", "SIGHUP", "SIGCHLD", "SIGURG", "SIGKILL", "O_NONBLOCK", "O_CLOEXEC")
    names += (
        "sched_getaffinity",
        "os.sysconf",
        "os.fork",
        "os.pread",
        "os.pwrite",
        "killpg",
        "setsid",
        "mkfifo",
        "pthread_kill(",
    )
    guarded = {("system.py", name) for name in names} | {
        ("folder_lock.py", "fcntl"),  # None is asked for
        ("folder_lock.py", "os.pread"),  # both behind it
        ("folder_lock.py", "os.pwrite"),
        ("rendezvous.py", "fcntl"),  # on Linux only
        ("watchdog.py", "pthread_kill("),  # only where `HARMLESS` is something
    }
    found = set()
    for path in [*REPOSITORY.glob("w2v/**/*.py"), *REPOSITORY.glob("w2v_cli/**/*.py")]:
        code = "\n".join(line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
        code = code.replace('"""', "\0").split("\0")[::2]  # without docstrings
        found |= {(path.name, name) for name in names if any(name in part for part in code)}
    assert found - guarded == set()
    assert {name.name for name in system.ENDING_SIGNALS} == {
        "SIGTERM",
        "SIGINT",
        "SIGUSR1",
        "SIGHUP",
    } or os.name == "nt"
    assert getattr(signal, "SIGKILL", 9) == -system.KILLED
