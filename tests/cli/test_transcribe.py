"""`w2v-transcribe` from its flags to stdout and files. Numbers P1 to P12 are the requirements that it is held to."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from media import write_media
from toy_speech import Outcome, call

import w2v
from w2v.inference.result import ENDINGS, FORMATS
from w2v.inference.subtitles import SubtitleStyle
from w2v_cli import transcribe
from w2v_cli.recordings import Job, find_jobs

RATE = 16000


@pytest.fixture(scope="module")
def model(golden) -> Path:
    """A folder of Hugging Face with a random model."""
    return golden / "people/hf_stitch/layer"


@pytest.fixture(scope="module")
def speech(data: Path) -> np.ndarray:
    return soundfile.read(data / "libri_valid/1624/1624-142933-0000.flac", dtype="float32")[0]


@pytest.fixture
def folder(tmp_path: Path, speech: np.ndarray) -> Path:
    """Four recordings, two of them of one stem and one in a folder below."""
    there = tmp_path / "in"
    (there / "below").mkdir(parents=True)
    for name, seconds in {"a.wav": 3.0, "b.wav": 1.5, "b.flac": 2.0, "below/a.ogg": 2.5}.items():
        soundfile.write(there / name, speech[: int(seconds * RATE)], RATE)
    (there / "notes.txt").write_text("no sound")
    (there / ".hidden.wav").write_bytes(b"")
    return there


def run(model: Path, *arguments: object) -> Outcome:
    return call(transcribe.main, [model, *arguments, "--cpu"])


def text_of(model: Path, path: Path) -> str:
    return w2v.transcribe(path, model=model, device="cpu").text


def test_one_command_gives_one_line_per_file_in_order(model, folder):
    """P1: nothing but a file and a model is named; nothing else is on stdout."""
    names = [folder / name for name in ("b.wav", "a.wav", "below/a.ogg")]
    done = run(model, *names)
    assert done.code == 0
    assert done.out.splitlines() == [text_of(model, path) for path in names]
    alone = run(model, names[1])
    assert alone.out == text_of(model, names[1]) + "\n"
    values = json.loads(done.err.splitlines()[-1])
    assert (values["files"], values["of"], values["failed"], values["seconds_left"]) == (3, 3, 0, 0.0)
    assert values["audio_s_per_s"] > 0
    assert run(model, names[1], "--quiet").err == ""
    # Of where symbols come from the program says nothing; the library still does, to who loads a model with it.
    assert logging.getLogger("w2v.inference.load").isEnabledFor(logging.WARNING)


def test_a_folder_is_transcribed_by_name(model, folder):
    done = run(model, folder)
    expected = ["a.wav", "b.flac", "b.wav", "below/a.ogg"]
    assert done.out.splitlines() == [text_of(model, folder / name) for name in expected]
    assert run(model, folder, "--ext", "flac,ogg").out.splitlines() == [
        text_of(model, folder / name) for name in ("b.flac", "below/a.ogg")
    ]


def test_checkpoints_of_any_kind(model, folder, tmp_path):
    """P1: ours and Hugging Face's say the same."""
    from w2v_cli import convert

    assert call(convert.main, [model, tmp_path / "ours.pt", "--to", "w2v"]).code == 0
    assert run(tmp_path / "ours.pt", folder / "a.wav").out == run(model, folder / "a.wav").out


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.m4a", "b.m4a", "a.mkv", "a.webm", "a.wma", "a.aac"])
def test_formats_of_audio(data, digits_model, tmp_path, name):
    """P2: the same speech in each, in other rates and channels, says the same words."""
    clip = soundfile.read(data / "digits_valid_seen/george/vs_george_00000.flac", dtype="float32")[0]
    path = tmp_path / name
    codecs = {
        "a.m4a": "aac",
        "b.m4a": "alac",
        "a.mkv": "libopus",
        "a.webm": "libopus",
        "a.wma": "wmav2",
        "a.aac": "aac",
    }
    if name in codecs:
        pytest.importorskip("av")
        rate = 48000 if "opus" in codecs[name] else 44100
        write_media(path, clip, RATE, codecs[name], rate, "mono" if name == "b.m4a" else "stereo")
    else:
        soundfile.write(path, np.stack([clip, clip], axis=1), RATE)
    assert run(digits_model, path).out == "FOUR TWO NINE\n"


def test_without_pyav_other_files_go_on(model, folder, monkeypatch):
    """P2: one line names the extra."""
    (folder / "c.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    monkeypatch.setattr("w2v.data.media_file.is_installed", lambda: False)
    done = run(model, folder / "c.m4a", folder / "a.wav")
    assert done.code == 1
    assert done.out.splitlines() == ["", text_of(model, folder / "a.wav")]
    (line,) = [line for line in done.err.splitlines() if "c.m4a" in line]
    assert 'pip install "w2v[media]"' in line


def same_up_to_rounding(found: str, expected: str) -> None:
    """P3: texts and times are equal, whichever clips share a batch; confidences, of four decimals, within 1e-4."""
    numbers = re.compile(r"\d+\.\d+")
    assert numbers.sub("#", found) == numbers.sub("#", expected)
    values = [[float(number) for number in numbers.findall(text)] for text in (found, expected)]
    assert values[0] == pytest.approx(values[1], abs=1.5e-4)


def test_files_of_all_formats(model, folder, tmp_path):
    """P8: stems that collide keep their endings; folders stay; each file is what the library renders."""
    out = tmp_path / "out"
    done = run(model, folder, "--output-dir", out, "--output-format", "all")
    assert (done.code, done.out) == (0, "")
    stems = {"a": "a.wav", "b.wav": "b.wav", "b.flac": "b.flac", "below/a": "below/a.ogg"}
    expected = {f"{stem}.{ENDINGS[name]}" for stem in stems for name in FORMATS}
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected
    for stem, name in stems.items():
        transcript = w2v.transcribe(str(folder / name), model=model, device="cpu")
        for kind, render in FORMATS.items():
            found = (out / f"{stem}.{ENDINGS[kind]}").read_text(encoding="utf-8")
            same_up_to_rounding(found, render(transcript, SubtitleStyle()))


def test_the_same_command_resumes(model, folder, tmp_path):
    """P8: files that are there are kept; --overwrite writes them anew."""
    out = tmp_path / "out"
    command = [folder, "--output-dir", out, "--output-format", "txt,json"]
    assert run(model, *command).code == 0
    first = (out / "a.json").read_bytes()
    (out / "a.txt").write_text("kept")
    (out / "b.wav.txt").unlink()
    (out / "below/a.json").unlink()
    before = (out / "b.wav.json").stat().st_mtime_ns
    done = run(model, *command)
    values = json.loads(done.err.splitlines()[-1])
    assert (values["files"], values["kept"]) == (2, 2)
    assert (out / "a.txt").read_text() == "kept"
    assert (out / "b.wav.txt").is_file()
    assert (out / "below/a.json").is_file()
    assert (out / "b.wav.json").stat().st_mtime_ns == before
    assert run(model, *command, "--overwrite").code == 0
    assert (out / "a.txt").read_text() != "kept"
    assert (out / "a.json").read_bytes() == first
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def test_collisions_are_refused_before_work_starts(folder, tmp_path):
    """P8: the model, which is none, is not even opened."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "a.wav", other / "a.wav")
    done = call(transcribe.main, ["no model", folder / "a.wav", other / "a.wav", "--output-dir", tmp_path / "out"])
    assert done.code == 2
    assert "a.wav is given twice" in done.err
    assert not (tmp_path / "out").exists()
    assert len(find_jobs([str(folder / "a.wav")])) == 1
    assert find_jobs([str(folder / "b.wav"), str(folder / "b.flac")])[0] == Job(str(folder / "b.wav"), "b.wav")


def test_formats_on_stdout(model, folder):
    transcript = w2v.transcribe(str(folder / "a.wav"), model=model, device="cpu")
    for name in ("srt", "vtt", "ctm", "textgrid", "tsv"):
        assert run(model, folder / "a.wav", "--output-format", name).out == FORMATS[name](transcript, SubtitleStyle())
    lines = run(model, folder, "--output-format", "json").out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == [
        str(folder / name) for name in ("a.wav", "b.flac", "b.wav", "below/a.ogg")
    ]
    same_up_to_rounding(lines[0], json.dumps(transcript.as_dict(), ensure_ascii=False))
    assert "needs --output-dir" in run(model, folder, "--output-format", "srt").err
    assert "needs --output-dir" in run(model, folder / "a.wav", "--output-format", "srt,vtt").err


def test_a_folder_that_cannot_be_made_is_said_before_the_model_is_read(folder, tmp_path):
    in_its_way = folder / "a.wav"
    done = call(transcribe.main, ["no model", folder / "b.wav", "--output-dir", in_its_way])
    assert done.code == 2
    assert f"--output-dir: cannot make the folder {in_its_way}" in done.err


def test_a_bad_file_costs_one_line(model, folder, tmp_path):
    """P9: a reason on stderr, the rest goes on, exit code 1 and a count."""
    (folder / "bad.wav").write_bytes(b"nothing")
    soundfile.write(folder / "header.wav", np.zeros(0), RATE)
    done = run(model, folder, folder / "none.wav", "--output-dir", tmp_path / "out")
    assert done.code == 1
    lines = done.err.splitlines()
    assert len([line for line in lines if "bad.wav: not readable" in line]) == 1
    assert len([line for line in lines if "none.wav: cannot be read: No such file" in line]) == 1
    assert len([line for line in lines if "header.wav: holds no samples" in line]) == 1
    assert lines[-1] == "w2v-transcribe: 3 of 7 files failed"
    assert len(list((tmp_path / "out").rglob("*.txt"))) == 4


def test_odd_files_survive(model, data, tmp_path):
    """P9: every odd file is transcribed, or named with a reason."""
    done = run(model, data / "odd", data / "odd_real", "--output-dir", tmp_path, "--output-format", "json,srt")
    assert done.code == 1
    assert "Traceback" not in done.err
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    jobs = find_jobs([str(data / "odd"), str(data / "odd_real")])
    assert len(jobs) > 120
    for job in jobs:
        named = [line for line in done.err.splitlines() if f"{job.path}: " in line]
        assert len(named) == (f"{job.output}.json" not in written), job
    assert f"{len(jobs) - len(written)} of {len(jobs)} files failed" in done.err


@pytest.mark.parametrize("normalize", [True, False])
def test_standard_input(golden, speech, monkeypatch, normalize):
    """P12: a WAV file, or raw samples; a model with `normalize` reads them twice."""
    model = golden / "people/hf_stitch" / ("layer" if normalize else "group")
    clip = (speech * 32767).astype(np.int16)
    wav = io.BytesIO()
    soundfile.write(wav, clip, RATE, format="WAV", subtype="PCM_16")
    expected = w2v.transcribe(clip, RATE, model=model, device="cpu").text + "\n"
    stereo = np.stack([clip, clip], axis=1).tobytes()
    for content, flags in [
        (wav.getvalue(), []),
        (clip.tobytes(), ["--pcm", "s16le:16000:1"]),
        (stereo, ["--pcm", "s16le:16000:2"]),
    ]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        done = run(model, "-", *flags)
        assert (done.code, done.out) == (0, expected)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fLaC" + bytes(99))))
    done = run(model, "-")
    assert done.code != 0
    assert "--pcm s16le:16000:1" in done.err


def test_ranks_take_turns(model, folder, tmp_path, monkeypatch):
    """Processes of torchrun, and shards, write each file once; none waits for another one."""
    out = tmp_path / "out"
    written: Counter[str] = Counter()
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, value)
        for shard in ("0", "1"):
            done = run(model, folder, "--output-dir", out, "--num-shards", 2, "--shard-id", shard)
            written[str(json.loads(done.err.splitlines()[-1])["files"])] += 1
            assert done.code == 0
    assert written == {"1": 4}
    assert len(list(out.rglob("*.txt"))) == 4
    assert "2 processes need --output-dir" in run(model, folder).err


def test_decoders_by_the_flags_of_infer(model, folder, tmp_path):
    """P1: a language model over words, in processes of its own and in this one."""
    arpa = tmp_path / "lm.arpa"
    grams = ["-1\t</s>", "-99\t<s>\t0", "-1\t<unk>\t0", "-0.5\tHE\t0"]
    lines = [
        "\\data\\",
        "ngram 1=4",
        "ngram 2=1",
        "",
        "\\1-grams:",
        *grams,
        "",
        "\\2-grams:",
        "-0.3\tHE HE",
        "",
        "\\end\\",
    ]
    arpa.write_text("\n".join([*lines, ""]))
    flags = ["--w2l-decoder", "kenlm", "--kenlm-model", arpa, "--beam", 20]
    alone = run(model, folder / "a.wav", *flags, "--decode-workers", 0)
    assert alone.code == 0, alone.err
    assert set(alone.out.split()) <= {"HE"}
    assert run(model, folder / "a.wav", *flags, "--decode-workers", 1).out == alone.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output-format", "docx"], "must be formats of txt, json"),
        (["--pcm", "s16le"], "must be KIND:RATE:CHANNELS"),
        (["--pcm", "s16le:16000:1"], "needs - as an input"),
        (["--shard-id", "1"], "--shard-id must be"),
        (["--window", "5", "--context", "3"], "--window must exceed twice --context"),
        (["--vad-threshold", "1"], "--vad-threshold must be"),
        (["--fp16", "--bf16"], "exclude each other"),
        (["--winow", "3"], "--window"),
    ],
)
def test_flags_are_checked(model, folder, flags, message):
    done = run(model, folder / "a.wav", *flags)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_help_needs_no_torch():
    """P10: at most half a second of CPU time."""
    code = (
        "import sys, time\nfrom w2v_cli import transcribe\n"
        "try: transcribe.main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules\nprint('CPU', time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert "Example: w2v-transcribe model.pt talk.m4a" in done.stdout
    assert float(done.stdout.rsplit("CPU ", 1)[1]) < 1.5  # 0.3 s on a quiet machine


def test_text_comes_soon_after_torch(model, folder):
    """P10: of a short clip with a tiny model; CPU time beside that of the import, with room for a busy machine."""
    start = time.perf_counter()

    def cpu(code: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\nimport time; print('CPU', time.process_time())"],
            capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return float(done.stdout.split("CPU ")[1])

    arguments = [str(model), str(folder / "a.wav"), "--cpu", "--quiet"]
    whole = cpu(f"from w2v_cli import transcribe; transcribe.main({arguments!r})")
    torch = cpu("import torch")
    assert whole - torch < 2.5, time.perf_counter() - start  # 0.7 s on a quiet machine


def test_a_picture_for_each_recording(model, folder, tmp_path):
    """P42: of the stretch that is named, beside the transcripts; drawn for files, and into a folder."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    done = run(model, folder / "a.wav", folder / "b.wav", "--output-dir", out, "--picture", "0.5-1.25")
    assert done.code == 0, done.err
    assert {path.name for path in out.glob("*.png")} == {"a.png", "b.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    refused = run(model, folder / "a.wav", "--picture", "0-1")
    assert refused.code == 2
    assert "--picture needs --output-dir" in refused.err
