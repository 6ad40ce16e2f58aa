"""What a manifest of a million clips costs: time to the first update, fresh and on resume, memory, and its growth.

    python benchmarks/million_clips.py [--clips 1000000] [--updates 300] [--epochs 3] [--folder FOLDER]

The million clips are 1,000 small files under 1,000 names of one folder (symbolic links), so paths are all different
and as long as LibriSpeech's. A toy wav2vec 2.0 is trained for some hundred updates with two workers, stopped, and
started again in the middle of the epoch. Then workers alone read epochs over the whole manifest with the audio left
out, and their memory that is not shared is compared between epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = 1000
RATE = 16000
MODEL: list[Any] = [
    "--arch", "wav2vec2", "--criterion", "wav2vec", "--infonce", "--quantize-targets", "--loss-weights", "[0.1, 10]",
    "--conv-feature-layers", "[(8, 10, 5)] + [(8, 8, 8)] * 2", "--encoder-layers", 1, "--encoder-embed-dim", 16,
    "--encoder-ffn-embed-dim", 16, "--encoder-attention-heads", 2, "--final-dim", 16, "--latent-vars", 8, "--conv-pos",
    8, "--conv-pos-groups", 2, "--num-negatives", 5, "--optimizer", "adam", "--lr", 0.0005, "--cpu", "--num-workers", 2,
    "--max-tokens", 64000, "--max-sample-size", 8000, "--disable-validation", "--log-format", "json", "--log-interval",
    1, "--no-epoch-checkpoints",
]  # fmt: skip


def write(folder: Path, clips: int) -> None:
    """Write audio, links and the manifest."""
    import numpy as np
    import soundfile

    audio, rng = folder / "audio", np.random.default_rng(1)
    (audio / "speaker-0000").mkdir(parents=True)
    sizes = rng.integers(4000, 12000, FILES)
    names = [f"utterance-{i:04d}-of-one-thousand.wav" for i in range(FILES)]
    for name, size in zip(names, sizes):
        soundfile.write(audio / "speaker-0000" / name, rng.uniform(-0.1, 0.1, size), RATE, subtype="PCM_16")
    for i in range(1, clips // FILES):
        (audio / f"speaker-{i:04d}").symlink_to("speaker-0000")
    with open(folder / "train.tsv", "w") as file:
        file.write(f"{audio}\n")
        for i in range(clips // FILES):
            file.writelines(f"speaker-{i:04d}/{name}\t{size}\n" for name, size in zip(names, sizes))


def train(folder: Path, updates: int) -> dict[str, float]:
    """Train to `updates` in a process of its own; return times since its start, and its largest memory."""
    command = [sys.executable, "-m", "w2v_cli.train", folder, "--save-dir", folder / "run", *MODEL]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    child = subprocess.Popen(
        ["/usr/bin/env", *map(str, command), "--max-update", str(updates)], stdout=subprocess.PIPE, text=True,
        env=environ,
    )  # fmt: skip
    assert child.stdout is not None
    found: dict[str, float] = {}
    for line in child.stdout:
        if "loaded checkpoint" in line or "no existing checkpoint" in line:
            found["data and model read"] = time.perf_counter() - begin
        if "train_inner" in line:
            found.setdefault("first update", time.perf_counter() - begin)
        if "| train | " in line:
            found["updates/s"] = float(json.loads(line.split("| train | ")[1])["train_ups"])
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        found["largest memory, MB"] = int(peak[1]) / 1e3 if peak else 0.0
    if child.wait():
        raise RuntimeError("w2v-train failed")
    return found


def private(pid: int) -> float:
    """Return the memory in MB that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+)", text)) / 1e3


def read_epochs(folder: Path, epochs: int) -> list[list[float]]:
    """Let workers read whole epochs, the audio left out; return their memory after each epoch."""
    import multiprocessing

    import numpy as np

    sys.path.insert(0, str(REPOSITORY))
    from w2v.data import dataset as module
    from w2v.data.batch_sampler import plan_batches
    from w2v.data.dataset import AudioDataset
    from w2v.data.iterator import EpochIterator
    from w2v.data.manifest import read_manifest

    silence = np.zeros(12000, np.float32)
    manifest = read_manifest(folder / "train.tsv")
    clips = AudioDataset(manifest, sample_rate=RATE, max_sample_size=8000)
    by_path = dict(zip((clips.path(i) for i in range(FILES)), clips.sizes[:FILES].tolist()))

    def no_audio(path: str, *arguments: Any, **options: Any) -> Any:
        return silence[: by_path[re.sub(r"speaker-\d+", "speaker-0000", path)]]

    module.read_audio = no_audio
    plan = plan_batches(
        clips.sizes, clips.lengths, seed=1, max_tokens=512_000, batch_size=None, multiple=8, name_of=clips.name
    )
    iterator = EpochIterator(clips, plan.batches, seed=1, num_workers=2)
    found = []
    for _ in range(epochs):
        for _ in iterator.updates(1):
            pass
        found.append([private(worker.pid) for worker in multiprocessing.active_children() if worker.pid])
        iterator.advance_epoch()
    iterator.close()
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=10**6)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write(folder, options.clips)
        for label, updates in (("fresh start", options.updates), ("resume", 2 * options.updates)):
            found = train(folder, updates)
            print(f"{label}: " + ", ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)
        for epoch, memory in enumerate(read_epochs(folder, options.epochs), 1):
            print(f"workers after epoch {epoch}: {', '.join(f'{size:.1f} MB' for size in memory)}", flush=True)


if __name__ == "__main__":
    main()
