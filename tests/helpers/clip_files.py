"""Small clips as files, a manifest of them with labels, and the same clips in shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from toy_speech import call

from w2v.data.manifest import write_manifest
from w2v_cli.manifest import main as manifest_main

RATE = 16000


def write_clips(folder: Path, count: int, *, split: str = "train", seed: int = 0, step: int = 37, first: int = 2000):
    """Write clips of noise, every other one as FLAC, with labels; return the manifest."""
    rng = np.random.default_rng(seed)
    (folder / "audio/a.b").mkdir(parents=True, exist_ok=True)
    names, sizes = [], []
    for number in range(count):
        size = first + (number * 7919 % count) * step
        name = f"a.b/{split}{number:03d}.{'flac' if number % 2 else 'wav'}"
        soundfile.write(folder / "audio" / name, 0.1 * rng.normal(size=size).clip(-4, 4), RATE, subtype="PCM_16")
        names.append(name)
        sizes.append(size)
    write_manifest(folder / f"{split}.tsv", str(folder / "audio"), names, sizes)
    words = ["".join(rng.choice(list("ABC"), 3)) for _ in names]
    (folder / f"{split}.wrd").write_text("".join(f"{word}\n" for word in words))
    (folder / f"{split}.ltr").write_text("".join(f"{' '.join(word)} |\n" for word in words))
    (folder / "dict.ltr.txt").write_text("| 9\nA 9\nB 9\nC 9\n")
    return folder / f"{split}.tsv"


def manifest_program(*arguments: object) -> tuple[int, str, str]:
    """Run `w2v-manifest`; return exit code, what it printed, and its errors."""
    done = call(manifest_main, arguments)
    return done.code, done.out, done.err
