"""A stretch of a recording: the samples that a cut would give, the words that lie in it, and refusals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from spoken_emissions import INFO, spoken
from toy_speech import call

from w2v.data.audio import read_stretch
from w2v.errors import DataError
from w2v.inference.emission_file import EmissionWriter
from w2v.inference.result import Segment, Transcript, Word
from w2v.pictures import clip
from w2v_cli import align
from w2v_cli.visualization.stretch import Stretch, parse_stretch, write_picture

pytest.importorskip("matplotlib")
RATE = 16000


@pytest.fixture
def recording(tmp_path: Path) -> tuple[Path, np.ndarray]:
    samples = (np.random.default_rng(0).normal(size=40 * RATE) * 0.05).clip(-1, 1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    return tmp_path / "a.wav", samples


@pytest.mark.parametrize(("start", "end"), [(0, 0.5), (12.25, 31), (39.5, 60), (0, 100)])
def test_a_stretch_is_a_cut_of_the_whole(recording: tuple[Path, np.ndarray], start: float, end: float) -> None:
    path, samples = recording
    found = read_stretch(str(path), RATE, start, end)
    np.testing.assert_array_equal(found, samples[round(start * RATE) : round(end * RATE)])


def test_a_stretch_beyond_the_end_is_refused(recording: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"ends at 40\.000 s, before second 41"):
        read_stretch(str(recording[0]), RATE, 41, 42)


def test_p42_the_words_of_the_stretch_are_drawn_in_its_time(
    recording: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (Word("BEFORE", 1.0, 9.0, 0.9), Word("INTO", 9.5, 10.5, 0.8), Word("$IN_", 11.0, 12.0, 0.1),
             Word("OUT", 14.9, 16.0, 0.5), Word("AFTER", 20.0, 21.0, 0.5))  # fmt: skip
    drawn: dict[str, Any] = {}

    def kept(*arguments: Any, **keywords: Any) -> Any:
        drawn.update(keywords, samples=arguments[1])
        return draw(*arguments, **keywords)

    draw = clip.draw_clip
    monkeypatch.setattr(clip, "draw_clip", kept)
    path, samples = recording
    write_picture(tmp_path / "a.png", str(path), Transcript("a.wav", 40.0, (Segment(words),)), Stretch(10, 15))
    assert drawn["first"] == 10
    np.testing.assert_array_equal(drawn["samples"], samples[10 * RATE : 15 * RATE])
    shown = [(word.text, word.start, word.end, word.confidence) for word in drawn["words"]]
    assert shown == [("INTO", 10, 10.5, 0.8), ("$IN_", 11.0, 12.0, 0.1), ("OUT", 14.9, 15, 0.5)]
    image = pytest.importorskip("PIL.Image").open(io.BytesIO((tmp_path / "a.png").read_bytes()))
    assert image.format == "PNG"
    assert image.width > 500


@pytest.mark.parametrize("text", ["5", "5-", "-3", "7-3", "0-61", "a-b", "1-2-3"])
def test_stretches_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be START-END in seconds, at most 60 of them, such as 0-20"):
        parse_stretch(text)


def test_a_stretch_is_read() -> None:
    assert parse_stretch("2.5-20") == Stretch(2.5, 20.0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two recordings of noise, with the emissions of a model that heard words in them."""
    clips = [spoken(text.upper().split(), seed)[0] for seed, text in enumerate(("hello world", "good morning"))]
    names = ["a.wav", "b.wav"]
    sizes = [len(clip) * 320 + 80 for clip in clips]
    rng = np.random.default_rng(1)
    with EmissionWriter(tmp_path / "emissions.safetensors", INFO, names) as writer:
        for name, size, clip_, text in zip(names, sizes, clips, ("hello world", "good morning"), strict=True):
            soundfile.write(tmp_path / name, rng.normal(size=size) * 0.01, RATE)
            (tmp_path / name).with_suffix(".txt").write_text(text)
            writer.add(name, size, torch.from_numpy(clip_))
    return tmp_path


def test_p42_align_draws_each_recording_beside_its_files(corpus: Path) -> None:
    command = [corpus / "emissions.safetensors", corpus, "--cpu", "--num-workers", 0, "--output-format", "ctm"]
    needs = call(align.main, [*command, "--picture", "0-1"])
    assert needs.code == 2
    assert "--picture needs --output-dir" in needs.err
    done = call(align.main, [*command, "--output-dir", corpus / "out", "--picture", "0-1"])
    assert done.code == 0, done.err
    found = sorted(path.name for path in (corpus / "out").iterdir())
    assert found == ["a.ctm", "a.png", "b.ctm", "b.png"]
    # A picture that is missing is made by the same command, and only that one.
    (corpus / "out/b.png").unlink()
    before = (corpus / "out/a.png").stat().st_mtime_ns
    again = call(align.main, [*command, "--output-dir", corpus / "out", "--picture", "0-1"])
    assert again.code == 0, again.err
    assert (corpus / "out/b.png").is_file()
    assert (corpus / "out/a.png").stat().st_mtime_ns == before
