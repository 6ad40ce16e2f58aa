"""Several training sets in one run: the concatenation bit for bit, weights by the formula, losses by set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from child import assert_same
from small_models import CTC, WAV2VEC, small_trainer
from torch.nn import functional as F
from toy_speech import call, prepare

from w2v.data.manifest import join_manifests, read_manifest
from w2v.errors import ConfigError
from w2v.rng import seed_from
from w2v.tasks.sources import source_values
from w2v.training.trainer import Trainer

LIMITS = ["--max-tokens", 60000, "--required-batch-size-multiple", 1, "--max-update", 4, "--disable-validation"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips as `ab`, the first seven of them as `a`, the others as `b`, and as `far` under another root."""
    folder = prepare(tmp_path_factory.mktemp("speech"), 13, valid_percent=0.05)
    root, *lines = (folder / "train.tsv").read_text().splitlines()
    labels = (folder / "train.ltr").read_text().splitlines()
    for name, part in (("ab", slice(None)), ("a", slice(7)), ("b", slice(7, None)), ("far", slice(7, None))):
        (folder / f"{name}.tsv").write_text("\n".join([root, *lines[part], ""]))
        (folder / f"{name}.ltr").write_text("\n".join([*labels[part], ""]))
    base = Path(root)
    moved = [f"{base.name}/{line}" for line in lines[7:]]
    (folder / "far.tsv").write_text("\n".join([str(base.parent), *moved, ""]))
    return folder


def trained(speech: Path, folder: Path, *flags: Any, kind: list[Any] = CTC) -> Trainer:
    trainer = small_trainer(kind, speech, folder, CPU, *LIMITS, *flags)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def whole(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(speech, tmp_path_factory.mktemp("ab"), "--train-subset", "ab").state_dict()


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        (["a,b"], "ab"),
        (["a, far", "--subset-weights", "1,1"], "ab"),
        (["a,b", "--subset-weights", "1,0"], "a"),
        (["b,a", "--subset-weights", "0,3"], "a"),
    ],
)
def test_weights_of_one_are_the_concatenation_and_of_zero_leave_out(
    speech: Path, whole: dict[str, Any], tmp_path: Path, flags: list[str], same: str
) -> None:
    found = trained(speech, tmp_path / "joined", "--train-subset", *flags).state_dict()
    other = whole if same == "ab" else trained(speech, tmp_path / "one", "--train-subset", same).state_dict()
    for part in ("model", "optimizer", "iterator"):
        assert_same(found[part], other[part], part)


def test_the_gradient_is_that_of_the_weighed_mean(speech: Path, tmp_path: Path) -> None:
    weights = (0.25, 2.0)
    trainer = small_trainer(
        CTC, speech, tmp_path, CPU, *LIMITS, "--train-subset", "a,b", "--subset-weights", "0.25,2", "--dropout", 0.1
    )
    trainer.model.train()
    batch = next(b for ((b, _),) in trainer.batches.updates(1) if {bool(i < 7) for i in b.indices} == {True, False})
    report = trainer.step.backward([(batch, True)])
    found = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]

    torch.manual_seed(seed_from(batch.seed, "dropout"))
    output = trainer.model(batch.source, batch.lengths if batch.is_padded else None, batch.seed)
    total, size = torch.zeros(()), 0.0
    for place, index in enumerate(batch.indices.tolist()):
        frames, symbols = int(output.lengths[place]), int(batch.target_lengths[place])
        log_probs = output.logits[place, :frames].log_softmax(-1)
        loss = F.ctc_loss(log_probs, batch.targets[place, :symbols], (frames,), (symbols,), reduction="sum")
        total = total + weights[index >= 7] * loss
        size += weights[index >= 7] * symbols
    trainer.model.zero_grad()
    total.backward()
    wanted = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert float(report.sample_size) == pytest.approx(size)
    largest = max(float(g.abs().max()) for g in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * largest)


def test_the_log_has_the_loss_and_the_clips_of_each_set(speech: Path, tmp_path: Path) -> None:
    from w2v_cli import train

    flags = ["--train-subset", "a,b", "--subset-weights", "1,0.5", "--log-interval", 1]
    command = [speech, "--save-dir", tmp_path, *CTC, "--optimizer", "adam", "--lr", 0.001, "--cpu"]
    command += ["--num-workers", 0, "--log-format", "json", *LIMITS, *flags]
    first = call(train.main, [*command, "--max-update", 2])
    assert first.code == 0, first.err
    lines = first.lines("train_inner")
    for line in lines:
        clips = {name: line[f"clips_{name}"] for name in "ab"}
        assert sum(clips.values()) == line["bsz"]
        assert line["nsentences"] == pytest.approx(clips["a"] + 0.5 * clips["b"])
        assert "nll_loss" not in line
        if not clips["b"]:
            assert line["loss"] == pytest.approx(line["loss_a"], abs=1e-3)
    assert sum(line["clips_b"] for line in lines)


def test_a_stopped_run_resumes_bit_for_bit(speech: Path, tmp_path: Path) -> None:
    flags = ["--train-subset", "a,b", "--subset-weights", "1,0.5"]
    trained(speech, tmp_path / "run", *flags, "--max-update", 2)
    rest = trained(speech, tmp_path / "run", *flags)
    one = trained(speech, tmp_path / "one", *flags)
    for part in ("model", "optimizer", "iterator"):
        assert_same(rest.state_dict()[part], one.state_dict()[part], part)
    sums = one.state_dict()["metrics"]["now"]["sums"]
    assert rest.state_dict()["metrics"]["now"]["sums"] == pytest.approx(sums)
    assert source_values(sums)["loss_b"] == pytest.approx(sums["source_loss/b"] / sums["source_size/b"] / math.log(2))


def test_joined_names_lead_to_the_same_files(speech: Path) -> None:
    one, far = (join_manifests([read_manifest(speech / f"{n}.tsv") for n in names]) for names in ("ab", ("a", "far")))
    concatenated = read_manifest(speech / "ab.tsv")
    for manifest in (one, far):
        assert manifest.sizes.tolist() == concatenated.sizes.tolist()
        paths = [concatenated.path(row) for row in range(len(manifest))]
        assert [manifest.path(row) for row in range(len(manifest))] == [str(Path(path).resolve()) for path in paths]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-subset", "a,b", "--subset-weights", "1"], "--subset-weights must have one weight for each of the 2"),
        (["--train-subset", "a,b", "--subset-weights", "1,-1"], "--subset-weights must be at least 0"),
        (["--train-subset", "a,b", "--subset-weights", "1,nan"], "--subset-weights: .nan. is not allowed"),
        (["--train-subset", "a,b", "--subset-weights", "0,0"], "--subset-weights must be at least 0, and one above"),
        (["--train-subset", "a,,b"], "--train-subset must be different names"),
        (["--train-subset", "a,a"], "--train-subset must be different names"),
    ],
)
def test_flags_that_break_a_rule(speech: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_trainer(CTC, speech, tmp_path, CPU, *LIMITS, *flags)


def test_pretraining_joins_sets_and_weighs_none(speech: Path, tmp_path: Path) -> None:
    joined = trained(speech, tmp_path / "ab", "--train-subset", "a,b", "--max-update", 2, kind=WAV2VEC)
    one = trained(speech, tmp_path / "one", "--train-subset", "ab", "--max-update", 2, kind=WAV2VEC)
    assert_same(joined.state_dict()["model"], one.state_dict()["model"], "model")
    with pytest.raises(ConfigError, match="--subset-weights needs a loss for each clip"):
        trained(speech, tmp_path / "no", "--train-subset", "a,b", "--subset-weights", "1,0.5", kind=WAV2VEC)
