"""Files of a folder: endings in any case, and a line about everything that is left out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from w2v.data import audio_files
from w2v.data.audio_files import AUDIO_ENDINGS, list_audio


@pytest.fixture
def shelf(tmp_path):
    for name in ("a.flac", "B.FLAC", "c.Wav", "d.txt", "e", "sub/f.wav", "sub/.g.wav", ".hidden/h.flac", "sub/i.TXT"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def found(folder, extensions):
    listing = list_audio(str(folder), extensions)
    return [os.path.relpath(path, folder) for path in listing.files], listing


def test_endings_in_any_case(shelf):
    names, listing = found(shelf, ("flac", ".WAV"))
    assert sorted(names) == ["B.FLAC", "a.flac", "c.Wav", "sub/f.wav"]
    assert {name.lower()[-4:] for name in names[:2]} == {"flac"}  # in the order of the extensions
    assert listing.report() == [
        f"left out 2 {audio_files.HIDDEN}: " + ", ".join(listing.left_out[audio_files.HIDDEN]),
        f"left out 3 {audio_files.OTHER}: 2 .txt, 1 no ending",
    ]
    assert sorted(listing.left_out[audio_files.HIDDEN]) == [".hidden", "sub/.g.wav"]


def test_all_kinds_by_default(tmp_path):
    for ending in AUDIO_ENDINGS:
        (tmp_path / f"x.{ending.upper()}").touch()
    assert len(found(tmp_path, None)[0]) == len(AUDIO_ENDINGS)


def test_compound_endings(tmp_path):
    (tmp_path / "x.take.flac").touch()
    (tmp_path / "y.flac").touch()
    assert found(tmp_path, ("take.flac",))[0] == ["x.take.flac"]


def test_links(tmp_path):
    folder, elsewhere = tmp_path / "f", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.wav").touch()
    (folder / "good.wav").symlink_to(elsewhere / "x.wav")
    (folder / "in").symlink_to(elsewhere)
    (folder / "up").symlink_to(folder)
    (folder / "gone.wav").symlink_to(tmp_path / "nothing")
    (folder / "self.wav").symlink_to(folder / "self.wav")
    os.mkfifo(folder / "pipe.wav")
    names, listing = found(folder, None)
    assert sorted(names) == ["good.wav", "in/x.wav"]
    assert listing.left_out[audio_files.UPWARDS] == ["up"]
    assert sorted(listing.left_out[audio_files.DANGLING]) == ["gone.wav", "self.wav"]
    assert listing.left_out[audio_files.NO_FILE] == ["pipe.wav"]


def test_a_closed_folder_is_named(shelf, monkeypatch):
    true_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return true_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    names, listing = found(shelf, None)
    assert "sub/f.wav" not in names
    assert listing.left_out[audio_files.CLOSED] == ["sub (Permission denied)"]


def test_there_is_one_table_of_endings():
    repository = Path(audio_files.__file__).resolve().parents[2]
    code = {
        path: path.read_text(encoding="utf-8")
        for room in ("w2v", "w2v_cli")
        for path in (repository / room).rglob("*.py")
    }
    assert [path.name for path, text in code.items() if re.search(r"""["']\.?w64["']""", text)] == ["audio_files.py"]
    assert len(set(AUDIO_ENDINGS)) == len(AUDIO_ENDINGS)
    assert {"m4a", "mp4", "webm", "wma", "opus", "flac"} <= set(AUDIO_ENDINGS)
