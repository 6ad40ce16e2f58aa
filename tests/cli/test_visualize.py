"""`w2v-visualize` on small models of every kind: what it draws, what it writes beside it, and odd data."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from small_models import CTC, TINY, WAV2VEC
from toy_speech import RATE, call, prepare, pretraining, speak, write_corpus

from w2v.data.manifest import make_manifest
from w2v.inference.load import load_model
from w2v.inference.survey import Viewer, choose_clips, code_perplexities, survey
from w2v_cli import train, visualize

for package in ("matplotlib", "sklearn", "soundfile"):
    pytest.importorskip(package)

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ("--num-samples", 1, "--max-batches", 2, "--max-points", 60, "--seconds", 2, "--cpu")
KINDS: dict[str, list[Any]] = {
    "wav2vec": WAV2VEC,
    "gumbel": [*WAV2VEC, "--vq-type", "gumbel", "--log-keys", '["code_perplexity"]'],
    "kmeans": [*WAV2VEC, "--vq-type", "kmeans", "--log-keys", '["code_perplexity"]'],
    "wav2vec2": TINY,
    "ctc": CTC,
}


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips of one toy word each, with transcripts."""
    folder = tmp_path_factory.mktemp("speech")
    write_corpus(folder, 12, seed=3, num_words=(1, 1))
    (folder / "transcripts.txt").rename(folder / "transcripts.tsv")
    return folder


@pytest.fixture(scope="module")
def trained(toy_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what gives the checkpoint of a kind, trained for two updates, with its log beside it."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        save = folder / kind
        if not save.is_dir():
            options = [*KINDS[kind], "--save-dir", save, "--max-update", 2, "--log-interval", 1, "--max-tokens", 30000,
                       "--num-workers", 0, "--cpu", "--lr", 0.001, "--log-format", "json"]  # fmt: skip
            command = [toy_corpus, "--optimizer", "adam", *options]
            if "--arch" not in options:
                command = pretraining(toy_corpus, save, *options)
            done = call(train.main, command)
            assert done.code == 0, done.err
            (save / "train.log").write_text(done.out, encoding="utf-8")
        return save / "checkpoint_last.pt"

    return make


@pytest.fixture(scope="module")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("toy"), 12)


def look(checkpoint: Path, data: Path, output: Path, *more: Any) -> list[str]:
    """Run the program; return what it printed."""
    done = call(visualize.main, ["--checkpoint", checkpoint, "--data-dir", data, "--output-dir", output, *QUICK, *more])
    assert done.code == 0, done.err
    return done.out.splitlines()


@pytest.fixture(scope="module")
def looked(
    trained: Callable[[str], Path], speech: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list[str]]]:
    """Return what gives the output folder for a kind, and what the program printed."""
    folder = tmp_path_factory.mktemp("looked")
    done: dict[str, tuple[Path, list[str]]] = {}

    def at(kind: str) -> tuple[Path, list[str]]:
        if kind not in done:
            done[kind] = folder / kind, look(trained(kind), speech, folder / kind)
        return done[kind]

    return at


Looked = Callable[[str], tuple[Path, list[str]]]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """The tags of a report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


HAS = {
    "wav2vec": {"Training", "Clips", "Frames in a plane", "Nearest neighbours"},
    "gumbel": {"Training", "Clips", "Frames in a plane", "Nearest neighbours", "Codebook"},
    "kmeans": {"Training", "Clips", "Frames in a plane", "Nearest neighbours", "Codebook"},
    "wav2vec2": {"Training", "Clips", "Attention", "Frames in a plane", "Nearest neighbours", "Codebook"},
    "ctc": {"Training", "Clips", "Attention", "Frames in a plane", "Nearest neighbours"},
}
ABSENT = {"Attention", "Codebook", "Emissions"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_p36_p38_p40_everything_a_model_has_is_drawn_with_its_numbers(looked: Looked, kind: str) -> None:
    folder, printed = looked(kind)
    text = (folder / "report.html").read_text(encoding="utf-8")
    sections = set(re.findall(r"<h2>([^<]*)</h2>", text)) - {"What is not here"}
    assert sections == HAS[kind]
    # What it has not is named, on the terminal and in the report.
    missing = {line.removeprefix("not shown: ").partition(":")[0] for line in printed if line.startswith("not shown: ")}
    assert missing == ABSENT - HAS[kind] - ({"Emissions"} if kind == "ctc" else set())
    assert all(f"<p>{name}:" in text for name in missing)
    assert printed[-1] == f"report: {folder / 'report.html'}"
    # Each picture has its numbers.
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture.with_suffix(".csv").is_file() or picture.with_suffix(".npz").is_file(), picture
    images = Page(folder / "report.html").of("img")
    assert len(images) == len(pictures)
    clip = np.load(folder / "clip_01.npz")
    assert {"layer_z", "layer_c", "samples", "spectrogram_db"} <= set(clip.files)
    assert ("layer_q" in clip.files) == (kind in ("gumbel", "kmeans"))
    assert ("log_probs" in clip.files) == (kind == "ctc")
    assert ("codes" in clip.files) == ("Codebook" in HAS[kind])


def test_p38_shares_of_variance_and_of_neighbours_are_told_beside_chance(looked: Looked) -> None:
    tmp_path, printed = looked("wav2vec")
    shares = [float(row["share_of_variance"]) for row in rows(tmp_path / "pca_variance.csv") if row["layer"] == "c"]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    neighbours = rows(tmp_path / "neighbours.csv")
    assert neighbours
    assert all(row["clip"] != row["neighbour_clip"] for row in neighbours)
    # The printed share is that of the table, and the chance that of drawing frames of other clips.
    agreement = {row["layer"]: row for row in rows(tmp_path / "neighbour_agreement.csv")}
    share, chance = (100 * float(agreement["c"][name]) for name in ("same_word_share", "chance"))
    assert f"layer c: {share:.1f} % of frames (chance {chance:.1f} %)" in "\n".join(printed)
    points = [row for row in rows(tmp_path / "frames.csv") if row["layer"] == "c" and row["word"]]
    drawn = [
        np.mean([other["word"] == row["word"] for other in points if other["clip"] != row["clip"]]) for row in points
    ]
    # Frames whose neighbour has no word are left out of both figures; here nearly all have one.
    assert chance / 100 == pytest.approx(np.mean(drawn), abs=0.05)


@pytest.mark.parametrize("kind", ["gumbel", "kmeans", "wav2vec2"])
def test_p38_code_perplexity_is_the_trainers_on_the_same_batch(
    trained: Callable[[str], Path], speech: Path, kind: str
) -> None:
    loaded = load_model(trained(kind), overrides={"mask_prob": 0.0} if kind == "wav2vec2" else None)
    paths = sorted(speech.rglob("*.wav"))[:5]
    clips = [soundfile.read(path, dtype="float32")[0] for path in paths]
    manifest = make_manifest(str(speech), [str(p.relative_to(speech)) for p in paths], [len(clip) for clip in clips])
    viewer = Viewer.of(loaded, longest_seconds=10, max_tokens=10**7)
    found = survey(viewer, manifest, {}, seed=1, max_batches=1, max_points=50)
    lengths = torch.tensor([len(clip) for clip in clips])
    source = torch.zeros(len(clips), int(lengths.max()))
    for row, clip in enumerate(clips):
        source[row, : len(clip)] = torch.from_numpy(clip)
    if kind == "wav2vec2":
        # Its trainer counts an equal number of frames of each clip; so here: one clip, all of whose frames are targets.
        found = survey(viewer, make_manifest(str(speech), [str(paths[0].relative_to(speech))], [len(clips[0])]), {},
                       seed=1, max_batches=1, max_points=50)  # fmt: skip
        source, lengths = source[:1, : len(clips[0])], None  # type: ignore[assignment]
    output: Any = loaded.model(source, lengths, 0)
    assert found.code_counts is not None
    perplexities = code_perplexities(found.code_counts)
    assert perplexities.sum() == pytest.approx(float(output.stats["code_perplexity"]), rel=1e-4)
    entropy = [-sum(p * np.log(p) for p in row / row.sum() if p) for row in found.code_counts]
    assert perplexities.tolist() == pytest.approx(np.exp(entropy).tolist(), rel=1e-4)


def test_p38_dead_codes_are_counted(looked: Looked) -> None:
    tmp_path, printed = looked("kmeans")
    counts: dict[str, list[int]] = {}
    for row in rows(tmp_path / "codes.csv"):
        counts.setdefault(row["group"], []).append(int(row["frames"]))
    for group, frames in counts.items():
        assert f"group {group}: perplexity" in "\n".join(printed)
        assert f"{frames.count(0)} of 8 codes never used" in "\n".join(printed)


def test_p37_equal_seeds_give_the_same_data_in_the_same_order(
    looked: Looked, trained: Callable[[str], Path], speech: Path, tmp_path: Path
) -> None:
    first, _ = looked("wav2vec")
    for name, seed in (("again", 1), ("other", 2)):
        look(trained("wav2vec"), speech, tmp_path / name, "--seed", seed)
    for name in ("frames.csv", "neighbour_agreement.csv"):
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (first / "frames.csv").read_bytes() != (tmp_path / "other/frames.csv").read_bytes()


def test_p37_clips_are_drawn_whatever_their_number() -> None:
    sizes = np.random.default_rng(0).integers(1, 600_000, 10_000)
    sizes[:50] = 0
    batches = choose_clips(sizes, seed=1, max_batches=20, max_tokens=320_000, longest=160_000)
    chosen = np.concatenate(batches)
    assert 10 < len(batches) <= 20
    assert len(set(chosen.tolist())) == len(chosen)
    assert (sizes[chosen] > 0).all()
    assert all(len(batch) * min(sizes[batch].max(), 160_000) <= 320_000 for batch in batches)
    again = choose_clips(sizes, seed=1, max_batches=20, max_tokens=320_000, longest=160_000)
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]
    # Few clips: all of them.
    assert sorted(np.concatenate(choose_clips(np.array([5, 9]), seed=1, max_batches=1, max_tokens=9, longest=9))) <= [1]


@pytest.mark.parametrize(
    ("kind", "what"), [("gumbel", "one clip"), ("ctc", "one frame"), ("ctc", "silence"), ("gumbel", "mixed")]
)
def test_p37_any_data(trained: Callable[[str], Path], tmp_path: Path, kind: str, what: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    clips = {
        "one clip": {"a.wav": speak(["AB"], np.random.default_rng(1))},
        "one frame": {f"{n}.wav": np.full(700, 0.1, np.float32) for n in range(3)},
        "silence": {f"{n}.wav": np.zeros(RATE, np.float32) for n in range(4)},
        "mixed": {"long.wav": np.tile(speak(["AB", "CAD"], np.random.default_rng(1)), 6), "x.wav": np.zeros(3)},
    }[what]
    for name, samples in clips.items():
        soundfile.write(data / name, samples, RATE)
    (data / "broken.wav").write_bytes(b"RIFF")
    printed = look(trained(kind), data, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    if what == "one clip":
        assert "There is one clip, so no frame has a neighbour." in text
    if what in ("one frame", "silence"):
        assert "No t-SNE: " in text
    if what == "mixed":
        assert "1 clips, 2 s of audio" in text
    assert printed[-1].startswith("report: ")


def test_p37_nothing_usable_is_one_line(trained: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "short.wav", np.zeros(7), RATE)
    arguments = ["--checkpoint", trained("wav2vec"), "--data-dir", tmp_path, "--output-dir", tmp_path / "out", *QUICK]
    done = call(visualize.main, arguments)
    assert done.code == 2
    assert "holds no clip that can be used; the first: " in done.err.splitlines()[-1]
    missing = call(visualize.main, ["--checkpoint", trained("wav2vec"), "--data-dir", tmp_path / "none", *QUICK])
    assert missing.code == 2
    assert f"no folder {tmp_path / 'none'}" in missing.err


def test_p39_several_runs_and_a_reference_in_one_picture(trained: Callable[[str], Path], tmp_path: Path) -> None:
    runs = [f"{kind}={trained(kind).parent}" for kind in ("wav2vec", "gumbel")]
    done = call(visualize.main, ["curves", *runs, "--reference", "digits_pretraining", "--output-dir", tmp_path])
    assert done.code == 0, done.err
    points = rows(tmp_path / "curves.csv")
    assert {row["run"] for row in points} == {"wav2vec", "gumbel", "digits_pretraining"}
    for kind in ("wav2vec", "gumbel"):
        log = (trained(kind).parent / "train.log").read_text(encoding="utf-8")
        logged = [
            json.loads(line.split("| train_inner | ")[1]) for line in log.splitlines() if "| train_inner | " in line
        ]
        found = [float(r["value"]) for r in points if (r["run"], r["data"], r["quantity"]) == (kind, "train", "loss")]
        assert found == [float(line["loss"]) for line in logged]
    unknown = call(visualize.main, ["curves", runs[0], "--quantities", "wer", "--output-dir", tmp_path])
    assert unknown.code == 2
    assert "--quantities: no run holds 'wer'" in unknown.err
    nothing = call(visualize.main, ["curves", "--output-dir", tmp_path])
    assert nothing.code == 2
    assert "name at least one RUN" in nothing.err


def test_p40_the_report_asks_for_nothing_outside_and_describes_its_pictures(
    looked: Looked,
) -> None:
    path = looked("ctc")[0] / "report.html"
    page = Page(path)
    assert not page.of("script")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert all(len(image["alt"]) > 20 for image in page.of("img"))
    sounds = page.of("audio")
    # Each clip; each frame with five neighbours.
    assert len(sounds) == 1 + 6
    assert all(sound["aria-label"] for sound in sounds)
    assert path.stat().st_size < 8_000_000
    assert not re.search(r"url\((?!data:)|@import|https?://", path.read_text(encoding="utf-8"))


def test_p40_words_names_and_tables_of_a_report_are_text(trained: Callable[[str], Path], tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & $x$ \\alpha \u4e16\u754c \u0639.wav"
    for folder, word in (("a", "<b>AB</b>"), ("b", "$AB_{")):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / name.replace("/", "|"), speak(["AB"], np.random.default_rng(1)), RATE)
        with open(tmp_path / "transcripts.tsv", "a", encoding="utf-8") as file:
            file.write(f"{folder}/{name.replace('/', '|')}\t{word}\n")
    look(trained("wav2vec"), tmp_path, tmp_path / "out")
    page = Page(tmp_path / "out/report.html")
    assert not page.of("script")
    assert not page.of("b")


def test_p41_neither_display_nor_latex_nor_fonts_are_needed(
    trained: Callable[[str], Path], speech: Path, tmp_path: Path
) -> None:
    settings = "text.usetex: True\nfont.family: No Such Font\nbackend: TkAgg\n"
    # A folder whose name no font can draw and no locale can spell.
    (tmp_path / "matplotlibrc").write_text(settings, encoding="utf-8")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe \xf0\x93\x82\x80"))
    odd.mkdir()
    for number, path in enumerate(sorted(speech.rglob("*.wav"))[:3]):
        (odd / f"{number}.wav").symlink_to(path)
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    environment |= {"MATPLOTLIBRC": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C", "PATH": "/nowhere"}
    command = [sys.executable, "-m", "w2v_cli.visualize", "--checkpoint", trained("ctc"), "--data-dir", odd,
               "--output-dir", tmp_path / "out", *QUICK]  # fmt: skip
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/report.html").is_file()


def test_training_ends_by_naming_the_command(trained: Callable[[str], Path], toy_corpus: Path) -> None:
    checkpoint = trained("ctc")
    log = (checkpoint.parent / "train.log").read_text(encoding="utf-8")
    named = log.strip().splitlines()[-1].partition("w2v-visualize ")[2]
    best = checkpoint.with_name("checkpoint_best.pt")
    assert named == f"--checkpoint {best if best.is_file() else checkpoint} --data-dir {toy_corpus}"
