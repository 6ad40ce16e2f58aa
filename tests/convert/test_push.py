"""`--push` and model cards: what arrives at a stand-in of the hub, and what the card says."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2v.checkpoint.file import load_checkpoint, save_checkpoint
from w2v.convert import read_model_file
from w2v_cli import convert

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


class Hub(http.server.ThreadingHTTPServer):
    """Takes uploads as the hub does, in one commit; only the token `good` may write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if self.headers.get("Authorization") != "Bearer good":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self.answer({"url": f"http://{self.headers['Host']}/team/digits", "id": "1", "name": "team/digits"})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if path.endswith("/commit/main"):
            for line in filter(None, body.decode().split("\n")):
                part = json.loads(line)
                if part["key"] == "file":
                    self.server.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            return self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/team/digits/commit/1", "commitOid": "1", "success": True}
            )
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer({"id": "team/digits", "sha": "0", "siblings": [], "private": True})

    def answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "good")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def checkpoint(golden: Path, tmp_path: Path) -> Path:
    """A fine-tuned checkpoint of ours that knows its run."""
    path = tmp_path / "own.pt"
    assert convert.main([str(golden / "checkpoints/g3_cfg/ctc_base.pt"), str(path), "--to", "w2v"]) == 0
    state = load_checkpoint(path)
    state["trainer"] = {"num_updates": 1200, "best": 7.25}
    state["config"]["checkpoint"] = {"best_checkpoint_metric": "wer"}
    state["config"]["dataset"] = {"train_subset": "train", "valid_subset": "dev_other,test", "max_tokens": 3200000}
    state["config"]["task"]["data"] = "/home/someone/private/ten_hours"
    state["config"]["optimization"] = {"lr": (5e-5,), "max_update": 20000}
    save_checkpoint(path, state)
    return path


@pytest.mark.parametrize("form", ["huggingface", "onnx"])
def test_what_is_uploaded(
    checkpoint: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """The files of the folder, byte for byte, and no others that lie there."""
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "notes.json").write_text("{}")
    command = [str(checkpoint), str(folder), "--to", form, "--push", "team/digits", "--private"]
    assert convert.main(command) == 0, capsys.readouterr().err
    assert "/team/digits/commit/1" in capsys.readouterr().out
    assert (hub.created[0]["name"], hub.created[0]["organization"]) == ("digits", "team")
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    expected = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "notes.json"}
    assert hub.files == expected
    weights = "model.safetensors" if form == "huggingface" else "model.onnx"
    assert {"README.md", "config.json", weights} <= set(expected)


def test_who_may_not_write_is_told_what_to_do(
    checkpoint: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "bad")
    command = [str(checkpoint), str(tmp_path / "x"), "--to", "huggingface", "--push", "team/digits"]
    assert convert.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "log in with `hf auth login`" in said
    assert (tmp_path / "x/model.safetensors").is_file()
    assert not hub.files


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--to", "w2v", "--push", "team/x"], "--push uploads a folder"),
        (["--to", "onnx", "--push", "team/x"], "--push uploads a folder"),
        (["--to", "huggingface", "--push", "x"], "--push must be OWNER/NAME, got 'x'"),
        (["--to", "huggingface", "--formats", "int8"], "--formats is for --to onnx"),
        (["--to", "onnx", "--formats", "int4"], "--formats must be of fp16, int8, got 'int4'"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], wanted: str) -> None:
    assert convert.main(["model.pt", str(tmp_path / "x.onnx"), *flags]) == 2
    assert wanted in capsys.readouterr().err


def test_the_card_says_what_the_checkpoint_knows(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    assert convert.main([str(checkpoint), str(folder), "--to", "huggingface"]) == 0
    card = (folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "automatic-speech-recognition"
    for known in (
        "# digits", "`train` of `ten_hours`", "wer 7.25 on `dev_other`", "| updates made | 1200 |", "16000 Hz",
        "| max_update | 20000 |", "AutoModelForCTC", "onnx_asr.load_model", "w2v.transcribe",
    ):  # fmt: skip
        assert known in text, known
    assert "someone" not in card
    # The score goes along to the next format, and a card that was written by hand stays.
    assert read_model_file(folder).score == read_model_file(checkpoint).score
    (folder / "README.md").write_text("by hand")
    assert convert.main([str(checkpoint), str(folder), "--to", "huggingface"]) == 0
    assert (folder / "README.md").read_text() == "by hand"
    onward = tmp_path / "x.safetensors"
    assert convert.main([str(folder), str(onward), "--to", "safetensors"]) == 0
    assert "wer 7.25" in read_model_file(onward).score


def test_the_code_of_the_card_runs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks for w2v and for transformers, as they stand on the card."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    soundfile.write("speech.wav", [0.1, -0.1] * 8000, 16000)
    assert convert.main([str(checkpoint), "digits", "--to", "huggingface"]) == 0
    blocks = [part.split("```")[0] for part in Path("digits/README.md").read_text().split("```python\n")[1:]]
    assert len(blocks) == 3
    for block in blocks[:2]:
        exec(compile(block, "README.md", "exec"), {})


def test_a_pretrained_hubert_goes_with_its_classes(golden: Path, tmp_path: Path, hub: Hub) -> None:
    (source,) = sorted((golden / "beyond/checkpoints/hubert").glob("*.pt"))[:1]
    folder = tmp_path / "hubert"
    assert convert.main([str(source), str(folder), "--to", "huggingface", "--push", "team/hubert"]) == 0
    assert hub.files["w2v_extra.safetensors"] == (folder / "w2v_extra.safetensors").read_bytes()
