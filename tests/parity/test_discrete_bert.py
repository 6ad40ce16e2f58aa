"""Discrete BERT against recorded tensors: contexts without `<s>` and `</s>`, log-probabilities, CTC, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_model import make as make_tiny

from w2v.config import build_config, to_plain
from w2v.criterions.ctc import CtcCriterion, CtcCriterionConfig
from w2v.models.discrete_bert import DiscreteBertCtc, bert_options
from w2v.models.roberta import RobertaConfig
from w2v.models.token_features import read_tokens
from w2v.models.wav2vec_ctc import Wav2VecCtcConfig
from w2v.types import AudioBatch


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found.detach() - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.fixture(scope="module")
def recorded(golden: Any) -> Any:
    found = torch.load(golden / "beyond/discrete_bert_ctc.pt", weights_only=True)
    return {**torch.load(golden / "beyond/roberta.pt", weights_only=True), **found}


def build(recorded: Any, **options: Any) -> DiscreteBertCtc:
    quantizer: Any = make_tiny("vq_kmeans")
    values = {k: v for k, v in recorded["config"].items() if k in RobertaConfig.__dataclass_fields__}
    bert = bert_options(build_config(RobertaConfig, values, "recorded"), recorded["vocab"])
    config = build_config(
        Wav2VecCtcConfig,
        {"w2v_args": {**to_plain(quantizer.config), "_name": "wav2vec"}, "bert_args": bert, **options},
        "test",
    )
    codes = [f"{a}-{b}" for a in range(6) for b in range(6)]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *codes, *map(str, range(recorded["vocab"] - 41)), "<mask>"]
    model = DiscreteBertCtc.build(
        config, num_classes=len(recorded["proj.weight"]), pretrained_state=quantizer.state_dict(),
        bert_state=recorded["state_dict"], bert_symbols=symbols,
    )  # fmt: skip
    with torch.no_grad():
        model.w2v_encoder.proj.weight.copy_(recorded["proj.weight"])
        model.w2v_encoder.proj.bias.copy_(recorded["proj.bias"])
    return model


def test_the_arithmetic(recorded: Any) -> None:
    model = build(recorded)
    frames = torch.as_tensor(recorded["frame_lengths"])
    # Recorded between <s> and </s>, which are put there by us.
    tokens = recorded["tokens"][:, 1 : 1 + int(frames.max())]
    true = torch.arange(tokens.shape[1]) < frames[:, None]
    contexts = read_tokens(model.w2v_encoder.sentence_encoder, tokens, frames)[-1]
    close(contexts[true], recorded["features_BTC"][:, : tokens.shape[1]][true])
    output = model.read(tokens, frames)
    close(output.logits[true], recorded["logits_BTV"][:, : tokens.shape[1]][true])
    log_probs = output.logits.log_softmax(-1)
    close(log_probs[true], recorded["log_probs_TBV"].transpose(0, 1)[:, : tokens.shape[1]][true])
    targets, sizes = recorded["target"], torch.as_tensor(recorded["target_lengths"])
    losses = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), targets, frames, sizes, blank=recorded["blank"], reduction="none"
    )
    close(losses, recorded["per_utt_loss"])
    batch = AudioBatch(tokens.float(), frames, torch.arange(len(frames)), 1, targets, sizes)
    loss = CtcCriterion(CtcCriterionConfig())(output, batch)
    close(loss.value, recorded["loss_sum"])
    loss.value.backward()
    gradients = {name: p.grad for name, p in model.w2v_encoder.named_parameters()}
    wanted = {**recorded["grads"], **{name[5:]: recorded[name] for name in ("grad_proj.weight", "grad_proj.bias")}}
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        # The gradient of keys' biases is zero, and both sides hold its rounding.
        like = wanted[name.replace("k_proj.bias", "k_proj.weight")]
        assert gradient is not None
        assert (gradient - wanted[name]).abs().max() <= 1e-4 * like.abs().max(), name
    assert all(p.grad is None for p in model.reader.parameters())


def clip(num_samples: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(1, num_samples, generator=torch.Generator().manual_seed(seed))


def test_masks_follow_from_the_seed_and_are_off_in_evaluation(recorded: Any) -> None:
    model = build(recorded, apply_mask=True, mask_prob=0.5, mask_length=3, dropout=0.0, attention_dropout=0.0)
    source = clip(105 + 40 * 29)
    model.train()
    with torch.no_grad():
        one, two, other = (model(source, None, seed).logits for seed in (5, 5, 6))
        hidden = torch.from_numpy(model.draw_masks(torch.tensor([30]), 30, 5))
        assert 0 < int(hidden.sum()) < 30
        assert torch.equal(one, two)
        assert not torch.equal(one, other)
        model.eval()
        plain = model(source, None, 5).logits
        assert not torch.equal(plain, one)
        assert torch.equal(plain, model(source, None, 6).logits)
        assert torch.equal(model(source, None, mask_indices=hidden).logits, one)
        tokens, frames = model.reader(source, None)
        # 120 is <mask>, the last of the recorded tokens.
        assert torch.equal(model.read(tokens.masked_fill(hidden, recorded["mask"]), frames).logits, one)


@torch.no_grad()
def test_clips_in_batches_and_beyond_the_table(recorded: Any) -> None:
    model = build(recorded).eval()
    sizes = [105 + 40 * 99, 105 + 40 * 29, 60, 105 + 40 * 150]
    source = torch.zeros(len(sizes), max(sizes))
    for row, size in enumerate(sizes):
        source[row, :size] = clip(size, row)[0]
    together = model(source, torch.tensor(sizes))
    assert together.lengths.tolist() == [100, 30, 0, 151]
    for row, size in enumerate(sizes):
        alone = model(source[row : row + 1, :size])
        length = int(together.lengths[row])
        if length:
            close(together.logits[row, :length], alone.logits[0])
        else:
            assert alone.logits.shape[1] == 0
    # Beyond the table: windows of 58 tokens (60 positions) with a quarter of context on either side.
    encoder, width = model.w2v_encoder.sentence_encoder, recorded["config"]["max_positions"] - 2
    tokens, frames = model.reader(source[:1, : sizes[0]], None)
    states = read_tokens(encoder, tokens, frames)
    margin = width // 4
    first = read_tokens(encoder, tokens[:, :width], torch.tensor([width]))
    last = read_tokens(encoder, tokens[:, -width:], torch.tensor([width]))
    for level, state in enumerate(states):
        assert state.shape[1] == 100
        close(state[:, : width - margin], first[level][:, : width - margin])
        tail = 100 - (width - margin) - (width - 2 * margin)  # after a window in between
        close(state[:, -tail:], last[level][:, -tail:])


def test_freezing(recorded: Any) -> None:
    model = build(recorded, freeze_finetune_updates=2)
    encoder = model.w2v_encoder.sentence_encoder
    assert not any(p.requires_grad for p in encoder.parameters())
    model.set_num_updates(2)
    assert all(p.requires_grad for p in encoder.parameters())
    assert not any(p.requires_grad for p in model.reader.parameters())
    assert not model.train().reader.quantizer.training


def test_what_a_user_froze_stays_frozen(recorded: Any) -> None:
    model = build(recorded, freeze_finetune_updates=2)
    encoder = model.w2v_encoder.sentence_encoder
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    model.set_num_updates(2)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    encoder.layers[0].requires_grad_(False)
    for update in (1, 2, 3):  # also through a run that goes back
        model.set_num_updates(update)
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in encoder.named_parameters() if name.startswith("layers.0.")}
