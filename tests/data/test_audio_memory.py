"""What a file claims costs no memory: hostile headers and hours of audio are read under a limit of the system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

# Reads each file named, under a limit of memory beyond what the imports take.
READER = """
import resource, sys
from pathlib import Path
import numpy as np, soxr, torch
from w2v.data.audio import read_audio
from w2v.data.dataset import AudioDataset
from w2v.data.manifest import make_manifest
from w2v.errors import DataError

def limit(megabytes):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)

"""


def run(program: str, *arguments: object) -> list[str]:
    """Return the lines that a program prints in a process of its own."""
    command = [sys.executable, "-c", READER + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def patched(place: int, content: bytes) -> Callable[[bytearray], None]:
    def patch(data: bytearray) -> None:
        data[place : place + len(content)] = content

    return patch


CLAIMS = {
    "most a FLAC can claim": ("FLAC", patched(21, b"\xff" * 5)),
    "unknown length of a FLAC": ("FLAC", patched(21, b"\xf0" + b"\0" * 4)),
    "WAV of 4 GB": ("WAV", patched(40, b"\xff" * 4)),
    "WAV of 2 GB": ("WAV", patched(40, b"\xff\xff\xff\x7f")),
    "WAV of a thousand channels": ("WAV", patched(22, b"\x00\x04")),
    "WAV at 4 GHz": ("WAV", patched(24, b"\xff" * 4)),
    "WAV at 1 Hz": ("WAV", patched(24, b"\x01\0\0\0")),
    "AU of unknown length": ("AU", patched(8, b"\xff" * 4)),
    "W64 of 2^63 bytes": ("W64", patched(96, b"\xff" * 7 + b"\x7f")),
    "RF64 of 2^63 bytes": ("RF64", patched(28, b"\xff" * 7 + b"\x7f")),
    "RF64 of 2^63 frames": ("RF64", patched(36, b"\xff" * 7 + b"\x7f")),
    "CAF of 2^63 bytes": ("CAF", patched(4088 + 8, b"\x7f" + b"\xff" * 7)),
}


@pytest.fixture
def claims(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (kind, patch) in enumerate(CLAIMS.values()):
        path = tmp_path / f"{number}.{kind.lower()}"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 4000), 16000, format=kind, subtype="PCM_16")
        data = bytearray(path.read_bytes())
        patch(data)
        path.write_bytes(data)
        paths.append(path)
    return paths


def test_claims_of_headers(claims: list[Path], data: Path) -> None:
    odd = [path for path in sorted((data / "odd").rglob("*")) if path.is_file() and path.suffix != ".tsv"]
    program = """
limit(128)
for path in sys.argv[1:]:
    try:
        print(len(read_audio(path, 16000, resample=True)))
    except DataError as e:
        assert "memory" not in str(e), e
        print("refused")
"""
    lines = run(program, *claims, *odd)
    assert len(lines) == len(claims) + len(odd)
    # What is decoded is what is there, never what is claimed.
    assert all(line == "refused" or int(line) <= 16000 * 4000 for line in lines)
    assert sum(line != "refused" for line in lines) > 80


def test_an_hour(tmp_path: Path) -> None:
    """A worker holds such a clip once, even where several share a batch: 230 MB as float32."""
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(6):
            file.write(np.zeros(9_600_000, dtype=np.int16))
    program = """
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = 3600 * 16000
clips = make_manifest(str(Path(sys.argv[1]).parent), [Path(sys.argv[1]).name] * 2, [size] * 2)
batch = AudioDataset(clips, max_sample_size=250_000).batch([0, 1], seed=1)
print(*batch.source.shape)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""
    shape, megabytes = run(program, path)
    assert shape == "2 250000"
    assert int(megabytes) < 320
