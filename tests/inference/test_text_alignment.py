"""A text over its recording: times against the frames that it was made from, and what is said of wrong texts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spoken_emissions import INFO, SYMBOLS, spoken

from w2v.data.dictionary import SPECIALS
from w2v.errors import ConfigError, DataError
from w2v.functional.ctc_alignment import forced_align
from w2v.inference import text_alignment
from w2v.inference.align_options import AlignmentConfig
from w2v.inference.emission_file import EmissionInfo
from w2v.inference.result import Transcript, Word
from w2v.inference.text_alignment import TextAligner, TextAlignment
from w2v.inference.wrong_text import likely_cause, named_characters, weakest_stretch

SENTENCE = "it was the best of times it was the worst of times it was the age of wisdom"
TEXT = SENTENCE.split()
SAID = SENTENCE.upper().split()


def aligned(
    scores: np.ndarray, lines: list[str], info: EmissionInfo = INFO, *, star: str = "none", pad_words: bool = False
) -> TextAlignment:
    aligner = TextAligner(info, AlignmentConfig(star=star, pad_words=pad_words))
    return aligner.align(scores, len(scores) * 320 + 80, lines, "talk.wav")


def start_errors(words: tuple[Word, ...], spans: list[tuple[int, int]]) -> np.ndarray:
    assert len(words) == len(spans)
    return np.abs(np.array([word.start for word in words]) - [INFO.seconds(start) for start, _ in spans])


def assert_sound(transcript: Transcript) -> None:
    """P7: sorted, disjoint, inside the recording, characters inside their words."""
    assert transcript.words
    for word in transcript.words:
        assert 0 <= word.start < word.end <= transcript.duration
        assert 0 <= word.confidence <= 1
        assert all(word.start <= char.start < char.end <= word.end for char in word.chars)
    assert all(a.end <= b.start for a, b in itertools.pairwise(transcript.words))


def test_words_and_letters_get_the_frames_in_which_they_were_said() -> None:
    scores, spans = spoken(SAID)
    found = aligned(scores, [" ".join(TEXT)])
    assert [word.text for word in found.transcript.words] == TEXT
    assert_sound(found.transcript)
    times = [(word.start, word.end) for word in found.transcript.words]
    expected = [(INFO.seconds(start), INFO.seconds(end)) for start, end in spans]
    errors = np.abs(np.array(times) - expected)
    assert np.mean(errors <= 0.0206) >= 0.95
    assert found.median_confidence > 0.8
    for word in found.transcript.words:
        assert "".join(char.text for char in word.chars) == word.text.upper()
        assert word.confidence == pytest.approx(np.mean([char.confidence for char in word.chars]))
        assert not word.interpolated


def test_each_line_is_a_segment_with_a_score() -> None:
    """P19."""
    scores, spans = spoken(SAID)
    found = aligned(
        torch.from_numpy(scores),
        ["it was the best of times", "", "  it was the worst", "of times it was the age of wisdom"],
    )
    assert [segment.text.split()[-1] for segment in found.transcript.segments] == ["times", "worst", "wisdom"]
    assert found.transcript.segments[1].start == pytest.approx(INFO.seconds(spans[6][0]), abs=0.021)
    assert all(segment.min_window_score is not None for segment in found.transcript.segments)
    assert all(-3 < (segment.min_window_score or -9) < 0 for segment in found.transcript.segments)


def test_what_cannot_be_spelled_gets_times(recwarn: pytest.WarningsRecorder) -> None:
    """P16: every word appears once, as written, in order; those without spelling are marked."""
    said = [*SAID[:5], "THIRTEEN", *SAID[5:10], "FIVE", *SAID[10:]]
    written = [*TEXT[:5], "$13.60", *TEXT[5:9], "–", TEXT[9], "5", *TEXT[10:], "…"]
    scores, spans = spoken(said)
    found = aligned(scores, [" ".join(written)])
    words = found.transcript.words
    assert [word.text for word in words] == written
    assert_sound(found.transcript)
    marked = [word.text for word in words if word.interpolated]
    assert marked == ["$13.60", "–", "5", "…"]
    spoken_words = tuple(word for word in words if word.text not in ("–", "…"))
    assert np.mean(start_errors(spoken_words, spans) <= 0.041) >= 0.95
    dollars = words[5]
    assert dollars.end - dollars.start > 0.5 * (spans[5][1] - spans[5][0]) * 0.02
    assert dict(found.spelling.missing)["1"] == 1
    assert named_characters(found.spelling.missing).startswith("'")


def test_words_for_which_there_is_no_room_share_the_time_between_their_neighbours() -> None:
    # As many frames as letters: no wildcard fits, and the numeral is left to its neighbours.
    scores = np.full((6, len(SYMBOLS)), -9.0, dtype=np.float32)
    for frame, letter in enumerate("AB|CD|"):
        scores[frame, SYMBOLS.index(letter)] = -0.01
    found = aligned(scores, ["ab 7 8 cd"])
    words = found.transcript.words
    assert [word.text for word in words] == ["ab", "7", "8", "cd"]
    assert [word.interpolated for word in words] == [False, True, True, False]
    left, right = words[0].end, words[3].start
    assert [(word.start, word.end) for word in words[1:3]] == [
        (left, pytest.approx((left + right) / 2, abs=0.001)), (pytest.approx((left + right) / 2, abs=0.001), right),
    ]  # fmt: skip


def test_a_dash_that_begins_a_line_does_not_move_its_start() -> None:
    scores, spans = spoken(SAID)
    found = aligned(scores, ["– it was the best of times –", "– it was the worst of times it was the age of wisdom"])
    first, second = found.transcript.segments
    assert first.start == pytest.approx(INFO.seconds(spans[0][0]), abs=0.021)
    assert second.start == pytest.approx(INFO.seconds(spans[6][0]), abs=0.021)
    assert_sound(found.transcript)


def test_lines_of_ctc_segmentation(golden: Path) -> None:
    """P19: starts within 0.1 s where that program is 0.37 s early, and the line that nobody said has no confidence."""
    recorded = torch.load(golden / "people/ctc_segmentation.pt", weights_only=True)
    letters = recorded["char_list"]
    scores = torch.full((len(recorded["log_probs"]), len(letters) + 3), -np.inf)
    scores[:, [0, *range(4, len(letters) + 3)]] = recorded["log_probs"].float()
    stride = round(recorded["index_duration"] * 16000)
    info = EmissionInfo("imagined", [*SPECIALS, *letters[1:]], "letter", "ltr", 16000, stride, 0.0)
    true = recorded["true_frames"].numpy() * recorded["index_duration"]
    for star, share in (("none", 0.97), ("lines", 1.0)):
        found = TextAligner(info, AlignmentConfig(star=star)).align(scores, len(scores) * stride, recorded["text"])
        starts = np.array([segment.start for segment in found.transcript.segments])
        assert np.mean(np.abs(starts - true[:, 0]) <= 0.1 + 1e-9) >= share
    run = recorded["runs"]["one_never_said"]
    begins = run["utt_begin_indices"].tolist()
    texts = [
        "".join(letters[label] for label in run["ground_truth"][a:b].tolist() if label > 0).replace("|", " ")
        for a, b in itertools.pairwise(begins)
    ]
    never = next(number for number, text in enumerate(texts) if text not in recorded["text"])
    found = TextAligner(info).align(scores, len(scores) * stride, texts)
    confidences = [segment.confidence for segment in found.transcript.segments]
    others = sorted(confidences[:never] + confidences[never + 1 :])
    assert confidences[never] < others[0] / 4
    stretch = weakest_stretch(found.transcript.words, found.median_confidence / 2)
    assert stretch is not None
    words = [word.text for word in stretch.words]
    assert " ".join(words).startswith(texts[never])
    assert len(words) <= len(texts[never].split()) + 1


@pytest.mark.parametrize("star", ["ends", "lines", "words"])
def test_foreign_speech_before_and_behind_the_text(star: str) -> None:
    """P17: two minutes of other words on either side move hardly a word."""
    random = np.random.default_rng(11)
    foreign = ["".join(random.choice([*"ABDEFGIKLMNOPRSTUVY"], size=5)) for _ in range(700)]
    alone, _ = spoken(SAID * 4, 1)
    before, after = spoken(foreign[:350], 2)[0], spoken(foreign[350:], 3)[0]
    assert min(len(before), len(after)) > 120 * 50
    lines = [" ".join(TEXT)] * 4
    expected = aligned(alone, lines, star=star).transcript.words
    found = aligned(np.concatenate([before, alone, after]), lines, star=star).transcript.words
    shift = len(before) * 0.02
    errors = np.abs(np.array([word.start for word in found]) - shift - [word.start for word in expected])
    assert np.mean(errors <= 0.1) >= 0.95
    assert min(word.confidence for word in found) > 0.1


@pytest.mark.parametrize("mark", ["*", "<star>"])
def test_a_star_in_the_text(mark: str) -> None:
    """P17: what the text lacks may be said there; the star is no word of the result."""
    scores, spans = spoken([*SAID[:6], *["QUACK", "ZYGOTE", "JUXTAPOSE", "FJORD"] * 3, *SAID[6:]], 4)
    found = aligned(scores, [" ".join([*TEXT[:6], mark, *TEXT[6:]])])
    assert [word.text for word in found.transcript.words] == TEXT
    kept = spans[:6] + spans[-len(TEXT) + 6 :]
    assert np.mean(start_errors(found.transcript.words, kept) <= 0.041) >= 0.95
    without = aligned(scores, [" ".join(TEXT)]).transcript
    assert found.transcript.confidence > without.confidence - 1e-6


def test_the_text_of_another_recording() -> None:
    """P18."""
    scores, _ = spoken(SAID)
    other = "quick zebras jump over lazy foxes while vexing black quartz"
    wrong, right = aligned(scores, [other]), aligned(scores, [" ".join(TEXT)])
    assert wrong.median_confidence < 0.1 < right.median_confidence
    assert "another recording" in likely_cause(wrong)
    russian = aligned(scores, ["это было лучшее из времён it was the"])
    assert "lacks 21 of its 29 letters" in likely_cause(russian)


def test_case_does_not_matter() -> None:
    """P18: upper-case text and a lower-case dictionary score as the right case does."""
    scores, _ = spoken(SAID)
    info = replace(INFO, symbols=[symbol.lower() for symbol in SYMBOLS])
    lower, upper = (aligned(scores, [" ".join(words)], info).transcript for words in (TEXT, SAID))
    assert [(word.start, word.end, word.confidence) for word in lower.words] == [
        (word.start, word.end, word.confidence) for word in upper.words
    ]
    assert lower.confidence > 0.8


def test_the_weakest_stretch() -> None:
    words = [
        Word(str(number), number, number + 1, value) for number, value in enumerate([0.9, 0.2, 0.9, 0.2, 0.1, 0.2, 0.9])
    ]
    found = weakest_stretch(words, 0.5)
    assert found is not None
    assert [word.text for word in found.words] == ["3", "4", "5"]
    assert str(found) == "3.00-6.00 s, confidence 0.17: 3 4 5"
    assert weakest_stretch(words, 0.05) is None
    best = max(itertools.combinations(range(8), 2), key=lambda cut: sum(0.5 - w.confidence for w in words[slice(*cut)]))
    assert (int(found.words[0].text), int(found.words[-1].text) + 1) == best


def test_padded_words_share_the_pauses() -> None:
    """P20: off unless asked for."""
    scores, _ = spoken(SAID)
    plain, padded = (aligned(scores, [" ".join(TEXT)], pad_words=on).transcript for on in (False, True))
    assert '"padded_words": true' in padded.json()
    assert "padded_words" not in plain.json()
    assert (padded.words[0].start, padded.words[-1].end) == (0.0, pytest.approx(padded.duration, abs=5e-4))
    for (a, b), (c, d) in zip(itertools.pairwise(plain.words), itertools.pairwise(padded.words), strict=True):
        assert c.end == d.start == pytest.approx((a.end + b.start) / 2, abs=0.001)


def test_refusals_name_the_numbers() -> None:
    """P15."""
    scores, _ = spoken(["AB"])
    with pytest.raises(DataError, match=r"^\d+ frames of 20 ms are too few for a text of 1020 symbols with 170 equal"):
        aligned(scores, ["ab bb " * 170])
    with pytest.raises(DataError, match="the text has no words"):
        aligned(scores, ["", " * "])
    scores[3, 5] = np.nan
    with pytest.raises(DataError, match="got NaN in frame 3, column 5"):
        aligned(scores, ["ab"])
    with pytest.raises(ConfigError, match="does not tell when its frames are"):
        TextAligner(replace(INFO, stride=0))


def test_times_are_those_of_the_frames_centres() -> None:
    """B1: one stride around the centre of a frame's field; nothing lies beyond the recording."""
    scores = np.full((3, len(SYMBOLS)), -9.0, dtype=np.float32)
    scores[[0, 1, 2], [SYMBOLS.index("A"), 0, SYMBOLS.index("B")]] = -0.01
    info = replace(INFO, symbols=[symbol for symbol in SYMBOLS if symbol != "|"])
    found = TextAligner(info).align(scores[:, [i for i, s in enumerate(SYMBOLS) if s != "|"]], 990, ["a b"]).transcript
    assert [(word.start, word.end) for word in found.words] == [(0.003, 0.023), (0.043, 0.062)]
    assert found.duration == 990 / 16000


def test_stars_between_words_leave_foreign_speech_to_those_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """P17: a star costs nothing at the ends and for `*`, and as much as the best letter between words."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def kept(scores: Any, labels: Any, *more: Any, **options: Any) -> Any:
        seen.append((np.asarray(scores), np.asarray(labels)))
        return forced_align(scores, labels, *more, **options)

    monkeypatch.setattr(text_alignment, "forced_align", kept)
    scores, _ = spoken(SAID, 1)
    width = scores.shape[1]
    aligned(scores, [" ".join([*TEXT[:3], "*", *TEXT[3:]])], star="words")
    given, labels = seen[-1]
    stars = labels >= width
    best = np.asarray(scores)[:, 1:].max(axis=1)
    cheap = [bool((given[:, label] == 0).all()) for label in labels[stars]]
    assert all(is_free or np.array_equal(given[:, label], best) for is_free, label in zip(cheap, labels[stars]))
    assert len(cheap) == len(TEXT) + 1
    assert [number for number, is_free in enumerate(cheap) if is_free] == [0, 3, len(TEXT)]
