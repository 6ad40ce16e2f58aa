"""Transcripts of recordings: windows, batches, threads, speech detection, against the whole and other programs."""

from __future__ import annotations

import threading
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import w2v
from w2v.data import silero
from w2v.data.audio import normalize
from w2v.errors import ConfigError, DataError
from w2v.functional.edit_distance import edit_distance
from w2v.inference.emissions import clip_log_probs
from w2v.inference.encode import conv_stack
from w2v.inference.recording import ArrayRecording, FileRecording
from w2v.inference.result import Segment, Transcript
from w2v.inference.transcriber import Failure
from w2v.inference.windows import WindowGrid

CPU = torch.device("cpu")
RATE = 16000


@pytest.fixture(scope="module")
def stitch(golden) -> Path:
    return golden / "people/hf_stitch"


@pytest.fixture(scope="module", params=["layer", "group"])
def small(request, stitch):
    """A random model of the size of a fly, with layer norm or group norm."""
    return w2v.load_model(stitch / request.param)


@pytest.fixture(scope="module")
def speech(data: Path) -> np.ndarray:
    """A minute of real speech."""
    paths = sorted((data / "libri_valid").glob("*/*.flac"))[:8]
    return np.concatenate([soundfile.read(path, dtype="float32")[0] for path in paths])[: 60 * RATE]


@pytest.fixture(scope="module")
def of_digits(digits_model: Path):
    return w2v.load_model(digits_model)


@pytest.fixture(scope="module")
def digits(data: Path) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Clips of spoken digits with pauses between them, five minutes; and the text and place of each."""
    parts, places, done = [], [], 0
    rng = np.random.default_rng(1)
    lines = (data / "digits_valid_seen/transcripts.tsv").read_text(encoding="utf-8").splitlines()
    for line in lines[1:] if lines[0].startswith("path\t") else lines:
        name, text = line.split("\t")[:2]
        clip = soundfile.read(data / "digits_valid_seen" / name, dtype="float32")[0]
        pause = np.zeros(int(RATE * rng.uniform(0.3, 2.5)), np.float32)
        parts += [pause, clip]
        places.append((text.upper(), done + len(pause), done + len(pause) + len(clip)))
        done = places[-1][2]
        if done > 300 * RATE:
            break
    return np.concatenate(parts), places


def words_of(transcript: Transcript) -> list[tuple[str, float, float, float]]:
    return [(word.text, word.start, word.end, word.confidence) for word in transcript.words]


def assert_same(found: Transcript, expected: Transcript) -> None:
    """P3: the same text and times, confidences to 1e-4."""
    assert [w[:3] for w in words_of(found)] == [w[:3] for w in words_of(expected)]
    np.testing.assert_allclose([w[3] for w in words_of(found)], [w[3] for w in words_of(expected)], atol=1e-4)


def standardised(samples: np.ndarray) -> np.ndarray:
    """Normalise as transformers does, whose epsilon is smaller than ours."""
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


@pytest.mark.parametrize("name", ["layer", "group"])
@pytest.mark.parametrize("batch", [1, 4])
def test_stitched_ids_are_those_of_transformers(stitch, name, batch):
    """P4: for the same windows, each normalised by itself as there, in any batch."""
    audio = stitch / "audio.flac"
    if not audio.is_file():
        pytest.skip(f"no {audio}")
    samples = w2v.read_audio(audio)
    transcriber = w2v.open_transcriber(stitch / name, device="cpu")
    loaded, info = transcriber.loaded, transcriber.info
    for run in torch.load(stitch / "expected.pt", weights_only=True)["models"][name]["runs"]:
        if not run["contiguous"]:
            with pytest.raises(ConfigError, match="--context"):
                WindowGrid(conv_stack(loaded.model), *run["chunk_samples"])
            continue
        windows = list(WindowGrid(conv_stack(loaded.model), *run["chunk_samples"]).windows([samples]))
        clips = [standardised(w.samples) if loaded.task.config.normalize else w.samples for w in windows]
        frames = []
        for first in range(0, len(clips), batch):
            frames += clip_log_probs(loaded.model, clips[first : first + batch], CPU, None, info)
        stitched = np.concatenate([f[w.skip : w.skip + w.keep] for f, w in zip(frames, windows, strict=True)])
        np.testing.assert_array_equal(stitched.argmax(axis=1), run["ids"].numpy())
        if run["logits"] is not None:
            expected = run["logits"].float().log_softmax(dim=-1).numpy()
            np.testing.assert_allclose(stitched, expected, atol=1e-4)


def test_batch_and_order_do_not_matter(small, speech):
    """P3."""
    sizes = [5000, 399, 48000, 16000, 100, 70000, 33000, 0, 21000, 9000, 52345, 16001]
    starts = np.cumsum([0, *sizes])
    clips = [
        ArrayRecording(speech[s : s + n], RATE, str(k)) for k, (s, n) in enumerate(zip(starts, sizes, strict=False))
    ]
    alone = w2v.open_transcriber(small, device="cpu", max_tokens=1, window=3, context=0.5)
    expected = {found.file: found for clip in clips for found in alone.transcripts([clip])}
    assert sum(len(found.words) for found in expected.values()) > 5
    for max_tokens in (1, 200_000, 10**9):
        transcriber = w2v.open_transcriber(small, device="cpu", max_tokens=max_tokens, window=3, context=0.5)
        for order in (clips, clips[::-1], [clips[k] for k in np.random.default_rng(2).permutation(len(clips))]):
            found = list(transcriber.transcripts(order))
            assert [f.file for f in found] == [clip.name for clip in order]
            for transcript in found:
                assert_same(transcript, expected[transcript.file])


def test_words_are_in_order_and_inside(small, speech):
    """P7."""
    for vad in ("none", "level"):
        transcript = w2v.transcribe(speech, RATE, model=small, device="cpu", window=5, context=1, vad=vad)
        assert transcript.duration == 60.0
        last = 0.0
        assert transcript.words
        for word in transcript.words:
            assert last <= word.start < word.end <= transcript.duration
            assert 0 <= word.confidence <= 1
            last = word.start
            for char in word.chars:
                assert last <= char.start < char.end <= word.end
                assert 0 <= char.confidence <= 1
                last = char.end
            last = word.end
        assert transcript.text == " ".join(word.text for word in transcript.words)


def test_windows_say_what_the_whole_says(of_digits, digits):
    """P4: a minute in three windows. A model of 2 million parameters hears some words differently with other context
    (none of its errors more); the times of the others are at most a frame apart."""
    samples, places = digits
    places = [place for place in places if place[2] < 60 * RATE]
    samples = samples[: places[-1][2]]
    spoken = " ".join(text for text, *_ in places).split()
    transcriber = w2v.open_transcriber(of_digits, device="cpu", window=0, vad="none")
    whole = w2v.transcribe(samples, RATE, model=transcriber)
    found = w2v.transcribe(samples, RATE, model=of_digits, device="cpu", window=25, context=3, vad="none")
    errors = [edit_distance(transcript.text.split(), spoken) for transcript in (whole, found)]
    assert errors[1] <= errors[0] + 0.02 * len(spoken)
    assert edit_distance(list(found.text), list(whole.text)) <= 0.05 * len(whole.text)
    blocks = SequenceMatcher(None, [w.text for w in found.words], [w.text for w in whole.words], autojunk=False)
    pairs = [
        (found.words[i + k], whole.words[j + k]) for i, j, size in blocks.get_matching_blocks() for k in range(size)
    ]
    assert len(pairs) > 0.85 * len(whole.words)
    close = [abs(a.start - b.start) < 0.0205 and abs(a.end - b.end) < 0.0205 for a, b in pairs]
    assert np.mean(close) >= 0.99


def test_segments_come_one_by_one(small, speech):
    """P11: the iterator form yields before the recording has been read."""
    samples = np.tile(speech, 3)
    num_read = 0

    class Counting(ArrayRecording):
        def blocks(self, sample_rate):
            nonlocal num_read
            for block in super().blocks(sample_rate):
                for first in range(0, len(block), RATE):
                    num_read += 1
                    yield block[first : first + RATE]

    transcriber = w2v.open_transcriber(small, device="cpu", window=10, context=1, vad="none", max_tokens=160_000)
    segments = transcriber.segments(Counting(samples, RATE))
    first = next(segments)
    assert isinstance(first, Segment)
    # A model with `normalize` reads everything once before.
    assert num_read < 150 + 180 * small.task.config.normalize
    found = [first, *segments]
    whole = w2v.transcribe(samples, RATE, model=transcriber)
    assert [len(segment.words) for segment in found] == [len(segment.words) for segment in whole.segments]
    # Other blocks: mean and variance are the same to rounding.
    assert_same(replace(whole, segments=tuple(found)), whole)
    assert tuple(w2v.transcribe_segments(samples, RATE, model=transcriber)) == whole.segments


def test_two_threads_at_once(small, speech):
    """P11."""
    clips = [speech[: 5 * RATE], speech[10 * RATE : 17 * RATE]]
    expected = [w2v.transcribe(clip, RATE, model=small, device="cpu") for clip in clips]
    transcriber = w2v.open_transcriber(small, device="cpu")
    found: dict[int, list[Transcript]] = {0: [], 1: []}

    def work(number: int) -> None:
        for _ in range(5):
            found[number].append(w2v.transcribe(clips[number], RATE, model=transcriber))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert len(found[number]) == 5
        for transcript in found[number]:
            assert_same(transcript, expected[number])


def test_an_utterance_is_what_a_file_is(of_digits, digits):
    """What `w2v-live` says at the end of an utterance: the words of the same samples, moved."""
    samples, places = digits
    transcriber = w2v.open_transcriber(of_digits, device="cpu")
    for _, start, end in places[:4]:
        clip = samples[start - 3000 : end]
        alone = w2v.transcribe(clip, RATE, model=transcriber)
        moved = transcriber.utterance(clip, 100.0)
        assert " ".join(segment.text for segment in moved) == alone.text
        words = [word for segment in moved for word in segment.words]
        for word, expected in zip(words, alone.words, strict=True):
            assert word.start == pytest.approx(expected.start + 100, abs=1e-6)
            assert word.confidence == pytest.approx(expected.confidence, abs=1e-6)


def test_what_cannot_be_read_does_not_stop_the_others(small, speech, tmp_path):
    """P9."""
    good = tmp_path / "good.wav"
    soundfile.write(good, speech[: 2 * RATE], RATE)
    cut = tmp_path / "cut.flac"
    soundfile.write(cut, speech, RATE)
    cut.write_bytes(cut.read_bytes()[:200_000])
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    names = ["bad.wav", "good.wav", "cut.flac", "none.wav", "good.wav"]
    transcriber = w2v.open_transcriber(small, device="cpu", window=5, context=1)
    found = list(transcriber.transcripts(FileRecording(str(tmp_path / name)) for name in names))
    assert [type(f) for f in found] == [Failure, Transcript, Failure, Failure, Transcript]
    for failure in (found[0], found[2], found[3]):
        assert failure.file in failure.reason
        assert "\n" not in failure.reason
    assert_same(found[1], found[4])
    with pytest.raises(DataError, match=r"bad.wav: not readable"):
        w2v.transcribe([good, tmp_path / "bad.wav"], model=small, device="cpu")


VAD = "silero" if silero.is_installed() else "level"
VADS = ["level", pytest.param("silero", marks=pytest.mark.skipif(not silero.is_installed(), reason="not installed"))]


@pytest.mark.parametrize("vad", VADS)
def test_speech_detection_keeps_the_times_of_the_file(of_digits, digits, vad):
    """P6: every word lies in its clip, at most a frame from where it is when the clip is decoded alone."""
    samples, places = digits
    places = places[:15]
    samples = np.concatenate([samples[: places[-1][2]], np.zeros(10 * RATE, np.float32)])
    found = w2v.transcribe(samples, RATE, model=of_digits, device="cpu", vad=vad)
    assert found.duration == pytest.approx(len(samples) / RATE, abs=1e-3)
    pairs = []
    for _, start, end in places:
        alone = w2v.transcribe(samples[start:end], RATE, model=of_digits, device="cpu").words
        there = [w for w in found.words if w.end > start / RATE and w.start < end / RATE]
        # The silence around a clip changes words of so small a model; the times of the others are compared.
        blocks = SequenceMatcher(None, [w.text for w in there], [w.text for w in alone], autojunk=False)
        for i, j, size in blocks.get_matching_blocks():
            pairs += [(there[i + k].start - start / RATE, alone[j + k].start) for k in range(size)]
    assert len(pairs) > 0.8 * len(found.words)
    assert np.mean([abs(a - b) < 0.0205 for a, b in pairs]) > 0.95
    inside = [any(s / RATE <= w.start and w.end <= e / RATE + 0.02 for _, s, e in places) for w in found.words]
    assert np.mean(inside) == 1.0


@pytest.mark.parametrize("seconds", [0, 1.5])
def test_auto_takes_short_recordings_whole(of_digits, digits, seconds):
    """The default: as without detection up to the length of a window, as with it beyond."""
    samples, places = digits
    end = next(end for _, _, end in places if end > 20 * RATE)
    samples = np.concatenate([np.zeros(int(seconds * RATE), np.float32), samples[:end]])
    for window, other in ((40, "none"), (12, VAD)):
        found, expected = (
            w2v.transcribe(samples, RATE, model=of_digits, device="cpu", vad=vad, window=window)
            for vad in ("auto", other)
        )
        assert found.words
        assert_same(found, expected)


@pytest.mark.parametrize("vad", ["level", "auto"])
def test_silence_says_nothing(small, vad):
    """P6: a random model hears words in silence; speech detection does not let it."""
    silence = np.zeros(20 * RATE, np.float32)
    transcript = w2v.transcribe(silence, RATE, model=small, device="cpu", vad=vad)
    assert (transcript.text, transcript.duration) == ("", 20.0)
    assert w2v.transcribe(np.zeros(0, np.float32), RATE, model=small, device="cpu", vad=vad).text == ""


def test_features_are_those_of_featurize(small, speech, tmp_path):
    from w2v.inference.encode import feature_function

    clip = speech[:20000]
    path = tmp_path / "a.wav"
    soundfile.write(path, clip, RATE, subtype="FLOAT")
    options = small.task.config
    samples = normalize(clip, options.normalize_epsilon) if options.normalize else clip
    for layer in ("z", "c", 1):
        with torch.inference_mode():
            expected, _ = feature_function(small.model, str(layer))(torch.from_numpy(samples)[None], None)
        for source in (path, str(path), clip, torch.from_numpy(clip)):
            found = w2v.features(small, source, RATE, layer=layer, device="cpu")
            np.testing.assert_allclose(found, expected[0].numpy(), atol=1e-5)
    with pytest.raises(DataError, match="100 samples, one frame needs 400"):
        w2v.features(small, clip[:100], RATE)


def test_samples_of_any_kind(small, speech):
    clip = speech[:30000]
    expected = w2v.transcribe(clip, RATE, model=small, device="cpu")
    whole = (clip * 32768).round().astype(np.int16)
    as_whole = w2v.transcribe(whole.astype(np.float32) / 32768, RATE, model=small, device="cpu")
    assert_same(w2v.transcribe(whole, RATE, model=small, device="cpu"), as_whole)
    for other in (torch.from_numpy(clip), clip.astype(np.float64), np.stack([clip, clip])):
        assert_same(w2v.transcribe(other, RATE, model=small, device="cpu"), expected)
    assert [t.file for t in w2v.transcribe([clip, clip], RATE, model=small)] == ["recording 0", "recording 1"]
    for wrong, message in [
        (clip[:, None], "transpose it"),
        (np.full(10, np.nan), "NaN"),
        (np.zeros((2, 2, 2)), "got shape"),
    ]:
        with pytest.raises(DataError, match=message):
            w2v.transcribe(wrong, RATE, model=small)
    with pytest.raises(DataError, match="need their sample_rate"):
        w2v.transcribe(clip, model=small)


def test_options_are_checked(small, stitch):
    with pytest.raises(ConfigError, match="unknown"):
        w2v.transcribe(np.zeros(10), RATE, model=small, windows=3)
    with pytest.raises(ConfigError, match="--window must exceed"):
        w2v.open_transcriber(small, window=2, context=1)
    with pytest.raises(ConfigError, match="has its own"):
        w2v.transcribe(np.zeros(10), RATE, model=w2v.open_transcriber(small), vad="level")


def test_no_special_symbol_is_text(digits_model: Path, digits):
    """What a model writes as `<unk>`, `<pad>` or `</s>` is in no text, word or character; the rest stays as it is."""
    audio = digits[0][: 20 * RATE]
    model, expected = w2v.load_model(digits_model), []
    plain = w2v.open_transcriber(model)
    (before,) = plain.transcripts([ArrayRecording(audio, RATE)])
    symbols = model.task.dictionary.symbols
    # The model writes the same rows under other names: all E are <unk>, O <pad>, N </s>.
    rows = list(range(len(symbols)))
    for special, letter in ((3, "E"), (1, "O"), (2, "N")):
        place = symbols.index(letter)
        rows[special], rows[place] = place, special
    proj = model.model.w2v_encoder.proj
    with torch.no_grad():
        proj.weight.copy_(proj.weight[rows])
        proj.bias.copy_(proj.bias[rows])
    for word in before.words:
        chars = [char.text for char in word.chars if char.text not in "EON"]
        if chars:
            expected.append(("".join(chars), chars))
    assert 5 < len(expected) < len(before.words)  # ONE is gone as a whole
    (after,) = plain.transcripts([ArrayRecording(audio, RATE)])
    assert [(word.text, [char.text for char in word.chars]) for word in after.words] == expected
    assert "<" not in after.text
    heard = plain.utterance(audio[: 8 * RATE])  # what w2v-live says
    assert heard
    assert not any("<" in segment.text for segment in heard)


def test_names_of_characters_are_read_as_these():
    from w2v.data.post_process import readable

    assert readable("A<unk>B<pad:0><s:31></s><U+007C>C<U+00A0>") == "AB|C\xa0"
    assert readable("<unk>") == readable("<pad>") == ""
