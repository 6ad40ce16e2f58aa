"""`w2v models`: the original's tables, and checkpoints that open by name."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from w2v import __main__ as face
from w2v.config import released
from w2v.convert import read_model_file
from w2v.convert.locate import locate
from w2v.errors import CheckpointError
from w2v.version import __version__


def test_all_three_tables_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["w2v", "models"])
    assert face.main() == 0
    said = capsys.readouterr().out
    assert len(released.RELEASED) == 19
    for one in released.RELEASED.values():
        (line,) = (line for line in said.splitlines() if line.endswith(f" {one.url}"))
        assert line.split()[0] == one.name
        assert all(part in line for part in (one.model, one.split, one.data, one.wer))


def test_the_programs_are_listed_and_mistakes_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["w2v"])
    assert face.main() == 0
    said = capsys.readouterr().out
    assert "w2v-train" in said
    assert "w2v models" in said
    monkeypatch.setattr(sys, "argv", ["w2v", "modls"])
    assert face.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['w2v', 'models']; from w2v.__main__ import main; main(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert __version__


@pytest.fixture
def server(golden: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the original's files, with one of them."""
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copy(golden / "checkpoints/g1_args/ctc_base_w2vargs.pt", folder / "wav2vec_small_960h.pt")
    handler = functools.partial(_Quiet, directory=str(folder))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_a_name_opens_its_checkpoint(
    server: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "BASE", server)
    monkeypatch.setenv("W2V_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    found = read_model_file("wav2vec_small_960h")
    expected = read_model_file(golden / "checkpoints/g1_args/ctc_base_w2vargs.pt")
    assert found.config["model"] == expected.config["model"]
    assert len(found.symbols or ()) == 32
    # From the cache, though the server has lost it; and a file of that name comes first.
    (tmp_path / "served/wav2vec_small_960h.pt").unlink()
    assert locate("wav2vec_small_960h").read_bytes()
    Path("wav2vec_small_960h").write_text("mine")
    assert locate("wav2vec_small_960h").read_text() == "mine"
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        locate("wav2vec_big_960h")
