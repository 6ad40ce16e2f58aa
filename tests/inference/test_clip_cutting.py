"""Clips of a long recording: no word lost or shared, no clip too long, cuts in pauses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from w2v.errors import ConfigError
from w2v.inference.clip_cutting import SAFE_PAUSE, Clip, CutConfig, CutWord, cut_clips
from w2v.inference.result import Word


def words_of(times: list[tuple[float, float]], **bad: str) -> list[CutWord]:
    return [CutWord(Word(f"w{i}", a, b, 0.9), bad.get(f"w{i}", "")) for i, (a, b) in enumerate(times)]


def speech(count: int, seed: int) -> list[CutWord]:
    random = np.random.default_rng(seed)
    now, found = 0.0, []
    for number in range(count):
        now += float(random.choice([0.02, 0.08, 0.3, 0.9, 4.0], p=[0.5, 0.25, 0.15, 0.08, 0.02]))
        end = now + float(random.uniform(0.1, 0.6))
        reason = "not said" if random.random() < 0.03 else ""
        found.append(CutWord(Word(f"w{number}", now, end, 0.9), reason, begins=bool(random.random() < 0.02)))
        now = end
    return found


def test_every_word_is_in_one_clip_and_no_clip_is_too_long() -> None:
    for seed in range(30):
        words = speech(400, seed)
        duration = words[-1].word.end + 3
        clips = cut_clips(words, duration, CutConfig(max_seconds=12.0))
        assert [clip.first for clip in clips] == [0, *(clip.last for clip in clips[:-1])]
        assert clips[-1].last == len(words)
        for clip in clips:
            assert 0 <= clip.start <= words[clip.first].word.start
            assert words[clip.last - 1].word.end <= clip.end <= duration
            assert clip.reason or clip.end - clip.start <= 12.0
            inside = words[clip.first : clip.last]
            assert bool(clip.reason) or not any(word.reason for word in inside)
            assert not any(word.begins for word in inside[1:])
        for a, b in itertools.pairwise(clips):
            assert a.end <= b.start + 1e-9
            # Good and bad words are parted by a pause.
            if bool(a.reason) != bool(b.reason) and "too" not in a.reason + b.reason and not words[b.first].begins:
                assert words[b.first].word.start - words[a.last - 1].word.end >= SAFE_PAUSE


def test_cuts_are_the_cheapest_of_all() -> None:
    for seed in range(20):
        words = [CutWord(word.word) for word in speech(9, seed)]
        duration = words[-1].word.end
        longest = 4.0
        clips = cut_clips(words, duration, CutConfig(max_seconds=longest, min_seconds=0.0))

        def price(starts: tuple[int, ...], words: list[CutWord] = words) -> float:
            return sum(1 + SAFE_PAUSE / max(words[i].word.start - words[i - 1].word.end, 0.01) for i in starts)

        costs = []
        for count in range(len(words)):
            for starts in itertools.combinations(range(1, len(words)), count):
                bounds = [0, *starts, len(words)]
                whole = [
                    cut_clips(words[a:b], 1e9, CutConfig(max_seconds=1e9))[0] for a, b in itertools.pairwise(bounds)
                ]
                lengths = []
                for (a, b), clip in zip(itertools.pairwise(bounds), whole, strict=True):
                    left = (words[a - 1].word.end + words[a].word.start) / 2 if a else 0.0
                    right = (words[b - 1].word.end + words[b].word.start) / 2 if b < len(words) else duration
                    lengths.append((min(clip.end, right) - max(clip.start, left), b - a))
                if all(length <= longest or number == 1 for length, number in lengths):
                    costs.append(price(starts))
        assert price(tuple(clip.first for clip in clips[1:])) == pytest.approx(min(costs))


def test_margins_and_the_longest_pause() -> None:
    words = words_of([(5.0, 6.0), (6.1, 7.0), (8.0, 9.0), (9.05, 10.0)])
    assert cut_clips(words, 20.0, CutConfig(max_seconds=4.0)) == [Clip(4.5, 7.5, 0, 2), Clip(7.5, 10.5, 2, 4)]
    # Half of a short pause is all that a clip may take.
    first, second = cut_clips(words, 20.0, CutConfig(max_seconds=3.9, min_seconds=0.0))[:2]
    assert (first.end, second.start) == (7.5, 7.5)


def test_bad_words_take_their_neighbours_along_up_to_a_pause() -> None:
    times = [(0.5, 1.0), (1.5, 2.0), (2.05, 2.5), (2.6, 3.0), (3.5, 4.2)]
    clips = cut_clips(words_of(times, w2="not said"), 5.0, CutConfig(min_seconds=0.0))
    assert [(clip.first, clip.last, clip.reason) for clip in clips] == [(0, 1, ""), (1, 4, "not said"), (4, 5, "")]


def test_reasons_of_length() -> None:
    clips = cut_clips(words_of([(0.0, 9.0), (12.0, 12.1)]), 15.0, CutConfig(max_seconds=5.0, min_seconds=1.2))
    assert [clip.reason for clip in clips] == ["too long", "too short"]
    assert cut_clips([], 3.0, CutConfig()) == []
    with pytest.raises(ConfigError, match="--max-seconds"):
        CutConfig(max_seconds=0.0)
    assert math.isclose(CutConfig().max_seconds, 30)
