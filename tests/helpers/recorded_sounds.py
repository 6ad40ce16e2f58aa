"""The clips in which silero-vad's events were recorded, made again from real speech."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

CLIPS = ("1624/1624-142933-0000", "1098/1098-133695-0000", "19/19-198-0036", "226/226-122538-0000",
         "1841/1841-150351-0000")  # fmt: skip


def recorded_sounds(recorded: dict[str, Any], data: Path) -> dict[str, np.ndarray]:
    """Rebuild the clips that were recorded; the README beside them says how they are made."""
    clips = [soundfile.read(data / f"libri_valid/{name}.flac", dtype="int16")[0][: 6 * 16000] for name in CLIPS]
    clips = [clip.astype(np.int32) for clip in clips]
    gaps = [np.zeros(int(gap * 16000), np.int32) for gap in (1.0, 0.2, 0.6, 1.5, 3.0, 2.0)]
    pauses = np.concatenate([part for pair in zip(gaps, [*clips, clips[0][:0]], strict=True) for part in pair])
    noise = pauses // 4 + np.random.RandomState(77).randint(-60, 61, len(pauses))
    t = np.arange(16000)
    clicks = np.zeros(16000, np.int64)
    clicks[::1600] = 12000
    sweep = np.cumsum(200 + t * 3000 // 16000) * 2 // 16000
    sounds = [np.where(t * 880 // 16000 % 2 == 0, 3000, -3000), clicks, np.where(sweep % 2 == 0, 2000, -2000)]
    half = np.zeros(8000, np.int64)
    parts = [part for k, sound in enumerate(sounds) for part in (half, sound, half, clips[k])]
    found = {"pauses": pauses, "noise": noise, "tones": np.concatenate([*parts, np.zeros(16000, np.int64)])}
    found = {name: values.astype(np.int16) for name, values in found.items()}
    for name, values in found.items():
        expected = recorded["inputs"][name]["sha256_16"]
        assert hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16] == expected, name
    return {name: values.astype(np.float32) / 32768 for name, values in found.items()}
