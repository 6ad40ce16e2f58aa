"""Speech detection against silero-vad's own results, in any blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from recorded_sounds import recorded_sounds

from w2v.data import silero
from w2v.data.level_detector import LevelDetector
from w2v.data.speech_segments import SpeechEvents, SpeechRule, SpeechSegmenter, speech_segments

NAMES = ("pauses", "noise", "tones")
WITH_SILERO = pytest.mark.skipif(not silero.is_installed(), reason="silero-vad or onnxruntime is not installed")


def rule_of(options: dict) -> SpeechRule:
    names = {"min_silence_duration_ms": "min_silence", "speech_pad_ms": "pad"}
    milliseconds = {new: options[old] / 1000 for old, new in names.items() if old in options}
    threshold = {"threshold": options["threshold"]} if "threshold" in options else {}
    longest = {"max_speech": options["max_speech_duration_s"]} if "max_speech_duration_s" in options else {}
    return SpeechRule(**milliseconds, **threshold, **longest)


def pushed(segmenter: SpeechSegmenter, probabilities: np.ndarray, num_samples: int, block: int) -> list[list[int]]:
    found = []
    for first in range(0, len(probabilities), block):
        earliest = segmenter.earliest
        new = list(segmenter.push(probabilities[first : first + block]))
        assert all(stretch.start >= earliest for stretch in new)
        found += new
    return [list(stretch) for stretch in [*found, *segmenter.finish(num_samples)]]


@pytest.fixture(scope="session")
def recorded(golden: Path) -> dict:
    return json.loads((golden / "people/vad/segments.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def probabilities(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "people/vad/probs.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="session")
def sounds(recorded: dict, data: Path) -> dict[str, np.ndarray]:
    return recorded_sounds(recorded, data)


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_segments_of_recorded_probabilities_are_those_of_silero_vad(recorded, probabilities, block):
    """P6: exact, with all recorded options, whatever the blocks."""
    for name, entry in recorded["inputs"].items():
        for options, expected in entry["segments"].items():
            rule = rule_of(recorded["options"][options])
            segmenter = SpeechSegmenter(rule, 512, 16000)
            found = pushed(segmenter, probabilities[name], entry["samples"], block)
            assert found == expected, (name, options)


def test_events_are_those_of_silero_vad(recorded, probabilities):
    rules = {"default": SpeechRule(), "min_silence_300_pad_200": SpeechRule(min_silence=0.3, pad=0.2)}
    for name, entry in recorded["inputs"].items():
        for options, expected in entry["events"].items():
            events = SpeechEvents(rules[options], 512, 16000)
            found = [(events.push(p), (number + 1) * 512) for number, p in enumerate(probabilities[name])]
            assert [[*event, fed] for event, fed in found if event is not None] == expected, (name, options)


@WITH_SILERO
def test_silero_gives_the_recorded_probabilities_and_segments(recorded, probabilities, sounds):
    """P6: `silero` reproduces the recorded segments exactly."""
    for name, samples in sounds.items():
        model = silero.SileroModel()
        found = np.concatenate([model.push(samples), model.finish()])
        np.testing.assert_allclose(found, probabilities[name], atol=1e-3)
        for options, expected in recorded["inputs"][name]["segments"].items():
            segmenter = SpeechSegmenter(rule_of(recorded["options"][options]), model.window, model.sample_rate)
            assert pushed(segmenter, found, len(samples), len(found)) == expected, options


@pytest.mark.parametrize("make", [pytest.param(silero.SileroModel, marks=WITH_SILERO), LevelDetector])
def test_blocks_do_not_matter(sounds, make):
    samples = sounds["noise"][: 20 * 16000 + 77]
    model = make()
    whole = np.concatenate([model.push(samples), model.finish()])
    assert len(whole) == -(-len(samples) // 512)
    rng = np.random.default_rng(1)
    for largest in (600, 5000, 100_000):
        model, parts, done = make(), [], 0
        while done < len(samples):
            size = int(rng.integers(1, largest))
            parts.append(model.push(samples[done : done + size]))
            done += size
        np.testing.assert_allclose(np.concatenate([*parts, model.finish()]), whole, atol=1e-6)


@WITH_SILERO
def test_silero_leaves_torchs_threads_alone():
    import sys

    import torch

    before = torch.get_num_threads()
    silero.SileroModel().push(np.zeros(1000, np.float32))
    assert torch.get_num_threads() == before
    assert "silero_vad" not in sys.modules


def test_level_detector_finds_what_silero_finds(probabilities, sounds):
    for name in ("pauses", "noise"):
        model = LevelDetector()
        rule = SpeechRule(min_silence=0.3, pad=0.1)
        segments = speech_segments(sounds[name], model, rule)
        inside = np.zeros(len(probabilities[name]), bool)
        for start, end in segments:
            inside[start // 512 : -(-end // 512)] = True
        speech = probabilities[name] >= 0.5
        assert inside[speech].mean() > 0.99, name
        assert inside[: 16000 // 512 - 1].mean() == 0  # a second without speech at the beginning
        assert inside[-16000 // 512 :].mean() == 0


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_nothing_is_said_in_silence(level):
    samples = np.full(5 * 16000, level, np.float32)
    assert speech_segments(samples, LevelDetector(), SpeechRule(min_silence=0.3)) == []
    if silero.is_installed():
        assert speech_segments(samples, silero.SileroModel()) == []


def test_speech_at_the_first_sample_is_heard(sounds):
    start = 16000 + int(np.argmax(np.abs(sounds["pauses"][16000:]) > 0.05))
    samples = sounds["pauses"][start : start + 3 * 16000]
    assert speech_segments(samples, LevelDetector(), SpeechRule(min_silence=0.3))[0].start == 0


def test_no_sound_at_all():
    assert speech_segments(np.zeros(0, np.float32), LevelDetector()) == []
