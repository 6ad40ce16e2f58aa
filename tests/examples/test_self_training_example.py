"""The self-training example: all of it at toy size in this process, and the guard that ends its rounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from digit_packs import link_few_clips
from scripts import load_script, run_in_process

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "self_training"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    """The script as a module."""
    return load_script(FOLDER / "run.py")


@pytest.fixture
def few_clips(data: Path, tmp_path: Path) -> Path:
    """The packs of digits with links to a few clips each."""
    return link_few_clips(data, tmp_path / "data")


@pytest.fixture
def called(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that were called; they run in this process, which has imported torch already."""
    called = run_in_process(run, monkeypatch)
    monkeypatch.setattr(run, "BEAM", (*run.BEAM, "--decode-workers", "0"))
    return called


TOY = ["--labelled-minutes", "0.2", "--dev-minutes", "0.1", "--updates", "1", "--rounds", "1"]


def test_a_new_speaker_at_toy_size(
    run: ModuleType, few_clips: Path, digits_model: Path, tmp_path: Path, called: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "run"
    argv = ["run.py", "--data", few_clips, "--folder", folder, "--model", digits_model, "--seeds", "3", *TOY]
    monkeypatch.setattr(sys, "argv", list(map(str, [*argv, "--minutes", "0.3"])))
    assert run.main() == 0
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows = {row["model"]: row for row in content["results"]}
    assert list(rows) == ["supervised", "round1", "control", "full"]
    # All of the gap is that of real labels, where they take errors away.
    assert rows["full"]["viterbi_recovery"] == {
        name: 1.0 for name in run.SETS if rows["full"]["viterbi"][name] < rows["supervised"]["viterbi"][name]
    }
    assert 0 < rows["round1"]["kept"] <= 1
    assert rows["round1"]["labels"]["words"] > 0
    assert run.label_errors(folder / "labels", run.REST)["errors"] == 0
    # No test clip is among those that are heard without labels.
    for name in (run.REST, run.UNSEEN):
        low, high = map(int, run.INDICES[name])
        recipe = (folder / "speech" / name / "recipe.tsv").read_text().splitlines()[1:]
        used = {int(part.rsplit("_", 1)[1]) for line in recipe for part in line.split("\t")[3].split()}
        assert low <= min(used) <= max(used) <= high

    before = len(called)
    assert run.main() == 0
    assert len(called) == before
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"] == content["results"]


def test_a_new_speaker_may_have_a_few_labels_to_choose_by(
    run: ModuleType, few_clips: Path, digits_model: Path, tmp_path: Path, called: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    argv = ["run.py", "--model", digits_model, *TOY, "--minutes", "0.3", "--speaker-dev-minutes", "0.1"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    run.prepare(run.Run(tmp_path / "run", 1), few_clips, run._arguments())
    labels = tmp_path / "run" / "labels"
    dev, rest, seen = ((labels / f"{name}.tsv").read_text().splitlines() for name in (run.DEV, run.REST, run.SEEN))
    made = (tmp_path / "run" / "speech" / run.REST / "transcripts.tsv").read_text().splitlines()
    assert dev[0] == rest[0] != seen[0]
    # Each clip of the speaker is in one of both, with its words; those that are not chosen by are what labels are for.
    words = {name: (labels / f"{name}.wrd").read_text().splitlines() for name in (run.DEV, run.REST)}
    texts = dict(
        zip([line.split("\t")[0] for line in dev[1:] + rest[1:]], words[run.DEV] + words[run.REST], strict=True)
    )
    assert texts == dict(line.split("\t") for line in made)
    assert 0.1 * 60 * 16000 <= sum(int(line.split("\t")[1]) for line in dev[1:]) < 0.3 * 60 * 16000


@pytest.mark.slow
def test_from_speech_alone_at_toy_size(
    run: ModuleType, few_clips: Path, tmp_path: Path, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["run.py", "--data", few_clips, "--folder", tmp_path / "run", "--seeds", "1", *TOY]
    argv += ["--pretrain-updates", "2", "--continued-updates", "2"]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    assert run.main() == 0
    content = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    models = [row["model"] for row in content["results"]]
    assert [model for model in models if model != "round1"] == ["supervised", "continued", "full"]
    assert called.count("w2v-train") == 5 + ("round1" in models)
    # The parts of the labelled pack are its clips, each once.
    labels = tmp_path / "run" / "labels"
    parts = [(labels / f"{name}.tsv").read_text().splitlines()[1:] for name in (run.FEW, run.DEV, run.REST)]
    assert sorted(line for part in parts for line in part) == sorted(
        (labels / "digits_train.tsv").read_text().splitlines()[1:]
    )
    assert all(parts)


def test_a_model_that_is_there_is_taken_once_and_for_one_purpose(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given.pt"
    given.write_bytes(b"weights")
    there = run.Run(tmp_path / "run", 1)
    for _ in range(2):  # a run that is resumed finds it there
        assert run.adopt(there, run.PRETRAIN, given) == run.PRETRAIN
    assert (tmp_path / "run" / run.PRETRAIN / "checkpoint_last.pt").read_bytes() == b"weights"
    monkeypatch.setattr(sys, "argv", ["run.py", "--pretrained", str(given), "--model", str(given)])
    with pytest.raises(SystemExit) as refused:
        run.main()
    assert refused.value.code == 2


def test_the_guard(run: ModuleType) -> None:
    assert run.fault_of_labels(5.0, 10.0) == ""
    assert "4.9 characters per second, less than half of the 10.0" in run.fault_of_labels(4.9, 10.0)
    first = run.Round(20.0, 0.5)
    assert "rose from 50.0 to 60.0 % while" in run.fault_of_round(first, run.Round(21.0, 0.6))
    assert run.fault_of_round(first, run.Round(21.0, 0.4)) == ""  # worse, but more cautious
    assert run.fault_of_round(first, run.Round(19.0, 0.6)) == ""
    # The first round keeps more than the supervised model, which trained on none.
    assert run.fault_of_round(run.Round(20.0), run.Round(25.0, 0.3))


def test_rounds_end_where_labels_decay_and_the_best_is_kept(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wers, rates, kept = [30.0, 20.0, 25.0, 10.0], [12.0, 12.0, 12.0], [0.5, 0.7, 0.8]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/few.tsv").write_text("/root\na.flac\t16000\n")
    (tmp_path / "labels/few.wrd").write_text("0123456789\n")

    def label(_: object, teacher: str, name: str) -> bool:
        number = int(name[6]) - 1
        record = {"characters_per_second": rates[number], "hours": kept[number], "of_hours": 1.0}
        (tmp_path / "labels" / f"{name}.labels.json").write_text(json.dumps(record))
        return kept[number] > 0

    monkeypatch.setattr(run, "write_labels", label)
    monkeypatch.setattr(run, "_dev", lambda _, model: wers[0 if model.startswith("s") else int(model[5])])
    monkeypatch.setattr(run.Trainer, "train", lambda self, name, *_: f"{name}-{self.seed}")

    def rounds() -> dict[str, object]:
        run.self_train(run.Trainer(run.Run(tmp_path, 1), 1, 10, None), 3)
        return json.loads((tmp_path / "rounds-1.json").read_text())

    stopped = rounds()
    assert (stopped["models"], stopped["best"]) == (["supervised-1", "round1-1", "round2-1"], 1)
    assert str(stopped["said"][0]).startswith("round 2 is not used: the share of labels kept rose")  # type: ignore[index]
    kept[1] = 0.5
    assert rounds()["best"] == 3
    kept[2] = 0.0
    assert "round 3 is not trained: no label is kept" in str(rounds()["said"])
    rates[1] = 4.0
    silent = rounds()
    assert silent["models"] == ["supervised-1", "round1-1"]
    assert "round 2 is not trained: 4.0 characters per second" in str(silent["said"])


def test_the_confidence_is_the_one_that_keeps_all_of_dev(run: ModuleType) -> None:
    lines = ["x: calibration: 3 clips", *(f"calibration: {flag}" for flag in ("--min-confidence kept WER",))]
    rows = [f"calibration:   0.{n}000  {100 - 10 * (n - 1):.1f} %  5.00 %" for n in range(1, 10)]
    table = "\n".join([*lines[1:], *rows, "calibration: 0.9500 5.0 % 5.00 %", "calibration: --min-score kept WER"])
    assert run.least_confidence(table) == 0.1
