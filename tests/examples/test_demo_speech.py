"""The demo's speech: repeatable in a fresh process, at 16 kHz, and never the same voice or sentence in two parts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "examples" / "demo" / "speak.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def speak() -> ModuleType:
    """The script as a module; nothing is spoken in this process."""
    return load_script(SCRIPT)


def _speak(folder: Path) -> dict[str, bytes]:
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("soxr")
    sizes = ["--train", "24", "--test", "3"]
    subprocess.run([sys.executable, SCRIPT, folder, *sizes], check=True, env=ENVIRONMENT, timeout=120)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_fresh_processes_speak_the_same_bytes(tmp_path: Path) -> None:
    # The first variants hold breathy ones, whose noise would follow the clock if it were not seeded.
    first, second = _speak(tmp_path / "first"), _speak(tmp_path / "second")
    assert first == second
    assert len(first) == 24 + 3 + 2


def test_clips_are_audible_at_16_khz_and_three_in_four_transcribed(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    _speak(tmp_path)
    for name, num_transcribed in (("train", 18), ("test", 3)):
        lines = (tmp_path / name / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == num_transcribed
        for line in lines:
            path, text = line.split("\t")
            audio, sample_rate = soundfile.read(tmp_path / name / path, dtype="float32")
            assert sample_rate == 16000
            assert audio.ndim == 1
            assert np.sqrt(np.mean(audio**2)) > 0.01
            # between 0.1 and 1.5 seconds a word at 130 to 210 words a minute
            assert 0.1 < len(audio) / sample_rate / len(text.split()) < 1.5


def test_speakers_and_sentences_of_the_test_are_new(speak: ModuleType) -> None:
    planned = speak.plan(speak.CLIPS, seed=1)
    assert not {u.variant for u in planned["train"]} & {u.variant for u in planned["test"]}
    texts = [u.text for utterances in planned.values() for u in utterances]
    assert len(set(texts)) == len(texts) == sum(speak.CLIPS.values())
    assert {word for text in texts for word in text.split()} == set(speak.WORDS)
    assert len({(u.accent, u.variant) for u in planned["train"]}) > 200


def test_a_plan_follows_from_its_seed_alone(speak: ModuleType) -> None:
    clips = {"train": 5, "test": 5}
    assert speak.plan(clips, seed=3) == speak.plan(clips, seed=3)
    assert speak.plan(clips, seed=3) != speak.plan(clips, seed=4)


def test_every_voice_exists(speak: ModuleType) -> None:
    loader = pytest.importorskip("espeakng_loader")
    variants = Path(loader.get_data_path()) / "voices" / "!v"
    assert [v for v in (*speak.TRAIN_VARIANTS, *speak.TEST_VARIANTS) if not (variants / v).is_file()] == []


def test_without_espeak_one_line_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "out"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "w2v[demo]"' in done.stderr
