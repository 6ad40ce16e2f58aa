"""RoBERTa against tensors recorded from the original: features, states, scores, loss, gradients, initialisation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import build_config
from w2v.criterions.masked_lm import MaskedLmConfig, MaskedLmCriterion
from w2v.errors import DataError
from w2v.models.roberta import RobertaConfig, RobertaModel
from w2v.types import Loss, TextBatch

SHARED = "encoder.lm_head.weight"
EMBEDDINGS = "encoder.sentence_encoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def recorded(golden: Any) -> Any:
    return torch.load(golden / "beyond/roberta.pt", weights_only=True)


def make(recorded: Any, **changes: Any) -> RobertaModel:
    names = RobertaConfig.__dataclass_fields__
    values = {name: value for name, value in recorded["config"].items() if name in names}
    config = build_config(RobertaConfig, {**values, **changes}, "recorded")
    return RobertaModel.build(
        config, num_words=recorded["vocab"], pad=recorded["pad"], max_positions=recorded["config"]["max_positions"]
    )


def load(recorded: Any) -> RobertaModel:
    model = make(recorded)
    state = dict(recorded["state_dict"])
    assert torch.equal(state.pop(SHARED), state[EMBEDDINGS])
    model.load_state_dict(state)
    return model


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert (found.detach() - wanted).abs().max() <= tolerance * wanted.abs().max()


def batch_of(recorded: Any, targets: Tensor) -> TextBatch:
    tokens = recorded["src_tokens"]
    lengths = (tokens != recorded["pad"]).sum(1)
    return TextBatch(tokens, targets, lengths, torch.arange(len(tokens)), 1)


@pytest.mark.parametrize("case", ["eval_padded", "eval_first_alone"])
def test_outputs_on_true_frames(recorded: Any, case: str) -> None:
    model, wanted = load(recorded).eval(), recorded[case]
    tokens = recorded["tokens"]
    lengths = (tokens != recorded["pad"]).sum(1)
    if case == "eval_first_alone":
        lengths = lengths[:1]
        tokens = tokens[:1, : int(lengths[0])]
    with torch.no_grad():
        features, states = model.encode(tokens, lengths, with_layers=True)
        true = tokens != recorded["pad"]
        close(features[true], wanted["features_BTC"][true])
        assert len(states) == len(wanted["inner_states_TBC"]) == recorded["config"]["encoder_layers"] + 1
        for mine, theirs in zip(states, wanted["inner_states_TBC"], strict=True):
            close(mine[true], theirs.transpose(0, 1)[true])
        close(model.encoder.scores(features[true]), wanted["logits_all_BTV"][true])


def test_scores_of_hidden_tokens(recorded: Any) -> None:
    model, wanted = load(recorded).eval(), recorded["eval_masked_input"]
    batch = batch_of(recorded, recorded["target"])
    chosen = wanted["masked_tokens_BT"]
    assert torch.equal(chosen, batch.targets != recorded["pad"])
    with torch.no_grad():
        features, _ = model.encode(batch.source, batch.lengths)
        close(model.encoder.scores(features[chosen]), wanted["logits_masked_MV"])


def train(model: RobertaModel, batch: TextBatch) -> Loss:
    model.train()
    loss: Loss = MaskedLmCriterion(MaskedLmConfig())(
        model(batch.source, batch.lengths, batch.seed, batch.targets), batch
    )
    loss.value.backward()
    return loss


def check_training(model: RobertaModel, recorded: Any, wanted: Any) -> None:
    loss = train(model, batch_of(recorded, recorded["target"]))
    assert loss.sample_size == wanted["sample_size"]
    close(loss.value, wanted["loss_sum"])
    logged = MaskedLmCriterion.summarize({"loss": float(loss.value.detach()), "sample_size": loss.sample_size})
    assert logged["loss"] == pytest.approx(wanted["logged_loss_bits"], rel=1e-5)
    assert logged["ppl"] == pytest.approx(wanted["logged_ppl"], abs=0.006)  # the original rounds it
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == wanted.get("grads", gradients).keys()
    for name, gradient in wanted.get("grads", {}).items():
        # No key's bias changes a softmax over keys: that gradient is zero, and both sides hold only its rounding.
        like = name.replace("k_proj.bias", "k_proj.weight")
        assert (gradients[name] - gradient).abs().max() <= 1e-4 * wanted["grads"][like].abs().max(), name


def test_loss_and_gradients(recorded: Any) -> None:
    check_training(load(recorded), recorded, recorded["train"])


def test_an_output_matrix_of_its_own(recorded: Any) -> None:
    untied = recorded["untied"]
    model = make(recorded, untie_weights_roberta=True)
    model.load_state_dict(untied["state_dict"])
    with torch.no_grad():
        tokens = recorded["tokens"]
        true = tokens != recorded["pad"]
        features, _ = model.eval().encode(tokens, true.sum(1))
        close(model.encoder.scores(features[true]), untied["eval_padded"]["logits_all_BTV"][true])
    check_training(model, recorded, untied["train"])


def test_a_batch_without_targets_has_zero_gradients(recorded: Any) -> None:
    model, wanted = load(recorded), recorded["train_no_target"]
    loss = train(model, batch_of(recorded, torch.full_like(recorded["target"], recorded["pad"])))
    assert (
        (float(loss.value.detach()), loss.sample_size) == (float(wanted["loss_sum"]), wanted["sample_size"]) == (0.0, 0)
    )
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == wanted["grads"].keys()
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


def test_a_step_reads_nothing_back_from_the_device(recorded: Any) -> None:
    # Tensors of the meta device have no numbers: to ask for one is an error.
    with torch.device("meta"):
        model = make(recorded, encoder_layerdrop=0.5, dropout=0.1)
    batch = batch_of(recorded, recorded["target"]).to(torch.device("meta"))
    train(model, batch)
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


def test_one_token_too_many_is_refused(recorded: Any) -> None:
    model = load(recorded).eval()
    size = recorded["config"]["max_positions"]
    tokens = torch.full((1, size + 1), 5)
    model.encode(tokens[:, :size], torch.tensor([size]))
    with pytest.raises(DataError, match=rf"^{size + 1} tokens, .* {size} positions"):
        model.encode(tokens, torch.tensor([size + 1]))


def test_initialisation(recorded: Any) -> None:
    statistics = {name: entry for name, entry in recorded["init_statistics"].items() if name != SHARED}
    shape_of = {name: entry["shape"] for name, entry in statistics.items()}
    fc1 = shape_of["encoder.sentence_encoder.layers.0.fc1.weight"]
    torch.manual_seed(3)
    model = make(
        recorded, encoder_embed_dim=fc1[1], encoder_ffn_embed_dim=fc1[0],
        encoder_layers=sum(name.endswith("fc1.weight") for name in statistics),
        max_positions=shape_of["encoder.sentence_encoder.embed_positions.weight"][0] - recorded["pad"] - 1,
    )  # fmt: skip
    state = model.state_dict()
    assert {name: list(tensor.shape) for name, tensor in state.items()} == shape_of
    for name, tensor in state.items():
        error = statistics[name]["std"] / math.sqrt(tensor.numel())
        # Two samples: the difference of their means has twice the variance, that of a deviation half of it.
        assert abs(float(tensor.mean()) - statistics[name]["mean"]) <= 3 * math.sqrt(2) * error, name
        assert abs(float(tensor.std()) - statistics[name]["std"]) <= 3 * error, name
    for table in ("embed_tokens", "embed_positions"):
        assert not state[f"encoder.sentence_encoder.{table}.weight"][recorded["pad"]].any()
