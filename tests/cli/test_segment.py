"""`w2v-segment`: speech is kept, cut at pauses, within limits; resumed, on several cores, as offsets or as files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_speech import call

from w2v.data.audio import read_audio
from w2v.data.manifest import read_manifest
from w2v_cli import segment

RATE = 16000


def talk(seconds, rng, rate=RATE):
    """Noise bursts like syllables, 20 dB above the background."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.2 * rng.normal(size=len(time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def recording(plan, seed=0, rate=RATE):
    """Return speech and pauses in turn, of so many seconds; the background never stops."""
    rng = np.random.default_rng(seed)
    parts = [talk(s, rng, rate) if i % 2 else np.zeros(round(s * rate), np.float32) for i, s in enumerate(plan)]
    samples = np.concatenate(parts)
    return samples + 0.0005 * rng.normal(size=len(samples)).astype(np.float32)


PLAN = [1, 4, 0.5, 6, 0.8, 5, 0.5, 8, 6, 12, 0.4, 3, 5, 1, 3]  # speech: 39 s


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    (folder / "b").mkdir(parents=True)
    soundfile.write(folder / "a.wav", recording(PLAN), RATE)
    soundfile.write(folder / "b" / "c.flac", recording(PLAN, 1, 22050), 22050)
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").touch()
    return folder


def run(shelf, dest, *options):
    return call(segment.main, [shelf, "--dest", dest, "--resample", "--jobs", "1", *options])


def clips(dest):
    found = {}
    for split in ("train", "valid"):
        manifest = read_manifest(dest / f"{split}.tsv")
        for row in range(len(manifest)):
            path, offset, frames = manifest.stretch(row)
            found[manifest.name(row)] = (path, offset or 0, frames, int(manifest.sizes[row]))
    return found


def test_speech_is_kept_and_lengths_hold(shelf, tmp_path):
    outcome = run(shelf, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    found = clips(tmp_path / "out")
    for path, offset, frames, size in found.values():
        rate = soundfile.info(path).samplerate
        assert frames <= 30.1 * rate
        assert size == frames * RATE // rate
        assert len(read_audio(path, RATE, resample=True, start=offset, frames=frames)) == pytest.approx(size, abs=2)
    of_a = sorted((offset, offset + frames) for path, offset, frames, _ in found.values() if path.endswith("a.wav"))
    speech, place = [], 0.0
    for number, seconds in enumerate(PLAN):
        if number % 2:
            speech.append((place, place + seconds))
        place += seconds
    covered = np.zeros(round(place * RATE), bool)
    for start, end in of_a:
        covered[start:end] = True
    for start, end in speech[:-1]:  # the last, of a second, is below --least-seconds
        assert covered[round(start * RATE) : round(end * RATE)].mean() > 0.97
    assert not covered[round(26.8 * RATE) : round(30 * RATE)].any()  # in the pause of 6 s
    assert "2 recordings" in outcome.out
    assert "clips that are too short" in outcome.out
    assert "seconds of long pauses" in outcome.out
    assert "lengths of clips:" in outcome.out
    assert "files with other endings: 1 .txt" in outcome.out
    assert "broken.wav\t" in (tmp_path / "out" / "rejects.tsv").read_text()
    assert "#" in outcome.out


def test_files_in_the_place_of_offsets(shelf, tmp_path):
    assert run(shelf, tmp_path / "out").code == 0
    assert run(shelf, tmp_path / "files", "--write-files").code == 0
    sizes = [size for *_, size in clips(tmp_path / "out").values()]
    written = clips(tmp_path / "files")
    assert sorted(size for *_, size in written.values()) == pytest.approx(sorted(sizes), abs=2)
    for path, *_, size in written.values():
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (RATE, 1, size)
    name = next(name for name in written if name.startswith("a.wav"))
    path, offset, _, _ = next(clip for clip in clips(tmp_path / "out").values() if clip[1] and "a.wav" in clip[0])
    whole, _ = soundfile.read(path, dtype="float32")
    assert any(
        np.allclose(whole[offset : offset + 1000], soundfile.read(clip[0], dtype="float32")[0][:1000], atol=1e-4)
        for clip in written.values()
    ), name


def test_a_run_that_was_stopped_continues(shelf, tmp_path, monkeypatch):
    assert run(shelf, tmp_path / "whole").code == 0
    true_cut, cut = segment.cut_recording, []

    def stops_after_one(config, root, path):
        if cut:
            raise KeyboardInterrupt
        cut.append(path)
        return true_cut(config, root, path)

    monkeypatch.setattr(segment, "cut_recording", stops_after_one)
    assert run(shelf, tmp_path / "out").code == 130
    record = tmp_path / "out" / segment.RECORD
    assert len(record.read_text().splitlines()) == 2
    with open(record, "a") as file:
        file.write('{"path": "torn')
    seen = []
    monkeypatch.setattr(segment, "cut_recording", lambda c, r, p: (seen.append(p), true_cut(c, r, p))[1])
    outcome = run(shelf, tmp_path / "out")
    assert outcome.code == 0
    assert "continuing after 1 of 3 recordings" in outcome.err
    assert cut[0] not in seen
    assert clips(tmp_path / "out") == clips(tmp_path / "whole")
    assert not record.exists()
    assert run(shelf, tmp_path / "out", "--max-seconds", "20").code == 0  # other options: begun anew


def test_several_processes_give_the_same(shelf, tmp_path):
    assert run(shelf, tmp_path / "one").code == 0
    assert call(segment.main, [shelf, "--dest", tmp_path / "two", "--resample", "--jobs", "2"]).code == 0
    assert clips(tmp_path / "one") == clips(tmp_path / "two")


def test_one_channel(tmp_path):
    (tmp_path / "in").mkdir()
    left, right = recording([1, 12, 1]), recording([1, 5, 8], 2)
    soundfile.write(tmp_path / "in" / "call.wav", np.stack([left, right], axis=1), RATE)
    refused = call(segment.main, [tmp_path / "in", "--dest", tmp_path / "none"])
    assert refused.code == 2
    assert "2 channels, need 1" in refused.err
    for channel, seconds in (("1", 12), ("2", 5)):
        dest = tmp_path / channel
        assert (
            call(segment.main, [tmp_path / "in", "--dest", dest, "--channel", channel, "--valid-percent", "0"]).code
            == 0
        )
        manifest = read_manifest(dest / "train.tsv")
        assert manifest.sizes.sum() / RATE == pytest.approx(seconds, abs=1.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-seconds", "40"], "--min-seconds must be above 0 and at most --max-seconds"),
        (["--ext", "mp3"], "no audio files"),
    ],
)
def test_one_line(shelf, tmp_path, options, message):
    outcome = run(shelf, tmp_path / "out", *options)
    assert outcome.code == 2
    assert message in outcome.err


def test_one_recording_in_the_place_of_a_folder(shelf, tmp_path):
    recording = next(path for path in shelf.rglob("*") if path.is_file())
    refused = call(segment.main, [recording, "--dest", tmp_path / "out"])
    assert refused.code == 2
    assert "is not a folder; give the folder that holds the recordings" in refused.err


def test_silence_has_no_clips(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "x.wav", np.zeros(RATE * 5, np.float32), RATE)
    outcome = call(segment.main, [tmp_path / "in", "--dest", tmp_path / "out"])
    assert outcome.code == 2
    assert "no clips: 5.0 seconds of recordings without speech" in outcome.err


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """An hour, of which 16 kHz floats take 230 MB, in a process of its own."""
    import subprocess
    import sys

    (tmp_path / "in").mkdir()
    minute = (recording([2, 10, 2, 20, 1, 25]) * 32767).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "in" / "hour.wav", "w", RATE, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    code = (
        "import resource, sys, json; from w2v_cli.segment import main; import w2v.data.silero\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"rc = main([{str(tmp_path / 'in')!r}, '--dest', {str(tmp_path / 'out')!r}, '--jobs', '1'])\n"
        "print(json.dumps([rc, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    code, grown = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert grown < 120_000  # kB


def test_a_full_disk_is_one_line_and_no_fault_of_the_recording(shelf, tmp_path, monkeypatch):
    def full(path, samples, sample_rate):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segment, "write_flac", full)
    done = run(shelf, tmp_path / "out", "--write-files")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert f"--dest: cannot write {tmp_path / 'out' / 'clips'}" in done.err
    assert "No space left on device" in done.err
    assert not (tmp_path / "out" / "rejects.tsv").exists()
