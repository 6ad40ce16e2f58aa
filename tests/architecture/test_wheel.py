"""The wheel: what it holds, what its metadata say, and that it works outside the checkout with its requirements.

The environment in which it is tried holds links to the required packages and nothing else, so an import of anything
that only an extra brings fails there as it does for a user. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from w2v.version import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "w2v", "w2v_cli", "docs")


def _run(folder: Path, *command: str | Path, **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_CONFIG_FILE": os.devnull, **variables}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `python -m build` makes: the sdist, and the wheel that is built from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("build")
    (folder / "src").mkdir()
    for source in (REPOSITORY / name for name in SOURCES):
        if source.is_dir():
            shutil.copytree(source, folder / "src" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / "src")
    _run(folder, "-m", "build", "--no-isolation", "--outdir", "dist", "src")
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder for PYTHONPATH, to be used with `-S`: the wheel, installed, and links to what it requires."""
    prefix = wheel.parent.parent / "prefix"
    _run(wheel.parent, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--prefix", prefix, wheel)
    (installed,) = prefix.glob("lib/*/site-packages")
    for name in sorted(_required("w2v", (installed,))):
        found = distribution(name)
        for top in {line.split("/")[0].split(",")[0] for line in (found.read_text("RECORD") or "").splitlines()}:
            if top not in ("..", "__pycache__") and not (installed / top).exists():
                (installed / top).symlink_to(str(found.locate_file(top)))
    return installed


def _required(name: str, path: tuple[Path, ...] = ()) -> set[str]:
    """Return the distributions that one needs without any extra, and those that these need."""
    requirements = pytest.importorskip("packaging.requirements")
    from importlib.metadata import distributions

    (first,) = distributions(name=name, path=[str(p) for p in path]) if path else (distribution(name),)
    found: set[str] = set()
    waiting = list(first.requires or ())
    while waiting:
        requirement = requirements.Requirement(waiting.pop())
        if requirement.name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(requirement.name)
        waiting += distribution(requirement.name).requires or ()
    return found


def test_it_holds_every_file_of_the_packages_and_the_pages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("w2v", "w2v_cli")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert {
        "w2v/py.typed",
        "w2v/config/recipes/base-1gpu.yaml",
        "w2v/training/reference_curves/digits_20min.csv",
    } <= expected
    assert expected - held == set()
    pages = {Path(name).name for name in held if "/share/doc/w2v/" in name}
    assert pages == {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    others = {name.split("/")[0] for name in held} - {"w2v", "w2v_cli"}
    assert all(re.fullmatch(r"w2v-[\d.]+\.(dist-info|data)", name) for name in others)


def test_a_reader_of_the_package_index_finds_what_is_expected(dist: Path, wheel: Path) -> None:
    pytest.importorskip("twine")
    assert "PASSED" in _run(dist, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_string(archive.read(name).decode())
    assert len(metadata.get_all("Project-URL")) >= 3
    assert {"speech recognition", "wav2vec 2.0", "CTC"} <= {word.strip() for word in metadata["Keywords"].split(",")}
    assert 80 < len(metadata["Summary"]) < 512
    assert metadata["License"] == "MIT" or metadata["License-Expression"] == "MIT"
    assert metadata["Description"] or "# w2v" in metadata.get_payload()
    assert "Typing :: Typed" in metadata.get_all("Classifier")


CODE = """
import contextlib, io, json, sys
from importlib.metadata import distribution
import w2v
from w2v_cli import featurize, transcribe
model, audio = sys.argv[1:]
for absent in ("av", "h5py", "transformers", "matplotlib", "onnxruntime", "kenlm", "huggingface_hub"):
    with contextlib.suppress(ImportError):
        __import__(absent)
        raise SystemExit(absent + " is there")
said = {"file": w2v.__file__}
def call(name, main, *arguments):
    sys.argv, out = [name, *arguments], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        assert main() == 0, name
    said[" ".join((name, *arguments[-1:]))] = out.getvalue()
call("featurize", featurize.main, "-i", audio, "--model", model, "-o", "features", "--cpu")
call("transcribe", transcribe.main, model, audio + "/a.wav", "--quiet", "--cpu")
for script in distribution("w2v").entry_points:
    main = script.load()
    call(script.name, main, "--version")
    call(script.name, main, "--help")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def tried(site: Path, golden, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder outside the checkout, and what programs said that were started there: `NAME OPTION` -> text."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "audio").mkdir()
    samples = np.random.default_rng(0).normal(size=44100).astype(np.float32) / 10
    soundfile.write(folder / "audio" / "a.wav", samples, 44100)
    model = (golden / "people/hf_stitch/layer").resolve()
    return folder, json.loads(_run(folder, "-S", "-c", CODE, model, folder / "audio", PYTHONPATH=str(site)))


def test_every_program_starts_outside_the_checkout(site: Path, tried: tuple[Path, dict[str, str]]) -> None:
    folder, said = tried
    assert Path(said["file"]).is_relative_to(site)
    programs = {path.stem for path in (REPOSITORY / "w2v_cli").glob("*.py") if "\ndef main(" in path.read_text("utf-8")}
    for program in programs:
        assert __version__ in said[f"w2v-{program} --version"]
        assert "usage: " in said[f"w2v-{program} --help"].lower()
    listed = _run(folder, "-S", "-m", "w2v", PYTHONPATH=str(site))
    page = re.search(r"\S+your_own_speech\.md", listed)[0]
    assert Path(page).is_file()
    assert Path(page).is_relative_to(site.parents[2])
    assert all(f"w2v-{program}" in listed for program in programs)
    script = site.parents[2] / "bin" / "w2v-manifest"
    assert __version__ in _run(folder, "-S", script, "--version", PYTHONPATH=str(site))


def test_requirements_suffice_for_hugging_face_models_and_any_rate(tried: tuple[Path, dict[str, str]]) -> None:
    folder, said = tried
    (features,) = (folder / "features").rglob("*.npy")
    frames = np.load(features)
    assert frames.shape[0] == 49  # a second at 16 kHz: floor((16000 - 400) / 320) + 1
    assert np.isfinite(frames).all()
    assert said["transcribe --cpu"].strip()
