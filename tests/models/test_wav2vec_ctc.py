"""CTC fine-tuning: its encoder's options, pretrained tensors, freezing, masks, padding, accumulation."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny_models import MODES, tiny_wav2vec2

from w2v.config import build_config, to_plain
from w2v.criterions.ctc import CtcCriterion, CtcCriterionConfig
from w2v.errors import CheckpointError, ConfigError
from w2v.models.wav2vec2 import Wav2Vec2Model
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v.types import AudioBatch

NUM_CLASSES = 9
CHANGES: dict[str, Any] = dict(encoder_layerdrop=0.3, dropout=0.2)


def pretrained(**changes: Any) -> Wav2Vec2Model:
    return tiny_wav2vec2(**{**CHANGES, **changes})


def make(mode: str = "default", **options: Any) -> Wav2VecCtc:
    source = pretrained(**MODES[mode])
    options = {"feature_grad_mult": 1.0, **options}
    return Wav2VecCtc.build(
        build_config(Wav2VecCtcConfig, options, "test"),
        num_classes=NUM_CLASSES,
        pretrained_config=source.config,
        pretrained_state=source.state_dict(),
    )


def batch_of(lengths: list[int], target_lengths: list[int]) -> AudioBatch:
    source = torch.zeros(len(lengths), max(lengths))
    targets = torch.ones(len(lengths), max(target_lengths), dtype=torch.long)
    for i, (length, labels) in enumerate(zip(lengths, target_lengths, strict=True)):
        generator = torch.Generator().manual_seed(i)
        source[i, :length] = torch.randn(length, generator=generator)
        targets[i, :labels] = torch.randint(4, NUM_CLASSES, (labels,), generator=generator)
    return AudioBatch(
        source, torch.tensor(lengths), torch.arange(len(lengths)), 1, targets, torch.tensor(target_lengths)
    )


# ---------------------------------------------------------------------------------------------- building


def test_pretrained_tensors_arrive_and_heads_are_gone() -> None:
    source = pretrained()
    model = make()
    encoder = model.w2v_encoder.w2v_model
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    gone = set(source.state_dict()) - set(encoder.state_dict())
    assert {name.split(".")[0] for name in gone} == {"quantizer", "project_q", "final_proj"}


def test_options_of_fine_tuning_replace_the_encoders() -> None:
    model = make(layerdrop=0.1, mask_prob=0.3, dropout=0.05, attention_dropout=0.01, mask_channel_prob=0.2)
    config = model.w2v_encoder.w2v_model.encoder_config
    assert config.encoder_layerdrop == 0.1
    assert (config.mask_prob, config.mask_channel_prob) == (0.3, 0.2)
    assert (config.dropout, config.attention_dropout, config.feature_grad_mult) == (0.05, 0.01, 1.0)
    assert config.encoder_layers == 2


def test_the_model_carries_its_encoders_options() -> None:
    model = make(final_dropout=0.1)
    plain = json.loads(json.dumps(to_plain(model.config)))
    again = Wav2VecCtc.build(build_config(Wav2VecCtcConfig, plain, "checkpoint"), num_classes=NUM_CLASSES)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    batch = batch_of([4000, 3000], [2, 1])
    outputs = [each.eval()(batch.source, batch.lengths, 1).logits for each in (model, again)]
    assert torch.equal(*outputs)
    assert (
        build_config(Wav2VecCtcConfig, {"w2v_args": json.dumps(plain["w2v_args"])}, "x").w2v_args == plain["w2v_args"]
    )


def test_without_the_encoders_options() -> None:
    with pytest.raises(ConfigError, match=r"--w2v-path: .*give a pretrained checkpoint"):
        Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=5)
    with pytest.raises(ConfigError, match="--w2v-args: unknown option 'encoder_layer'; did you mean 'encoder_layers'"):
        Wav2VecCtc.build(Wav2VecCtcConfig(w2v_args={"encoder_layer": 2}), num_classes=5)
    with pytest.raises(ConfigError, match="--w2v-args: is no JSON"):
        build_config(Wav2VecCtcConfig, {"w2v_args": "{"}, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer_norm.bias"), "lacks layer_norm.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda state: state.update(mask_emb=torch.zeros(3)), "of another shape: mask_emb"),
        (lambda state: [state.pop(k) for k in list(state) if ".layers.1." in k], "and 11 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str) -> None:
    source = pretrained()
    state = source.state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=5, pretrained_config=source.config, pretrained_state=state)


# ---------------------------------------------------------------------------------------------- freezing


def trainable(model: torch.nn.Module) -> set[str]:
    return {name.removeprefix("w2v_encoder.").split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_freezing_ends_after_so_many_updates() -> None:
    model = make(freeze_finetune_updates=3)
    assert trainable(model) == {"proj"}  # from the start, before any update
    for update in range(3):
        model.set_num_updates(update)
        assert trainable(model) == {"proj"}
    batch = batch_of([4000], [2])
    model(batch.source, None, 1).logits.sum().backward()
    assert model.w2v_encoder.w2v_model.mask_emb.grad is None
    model.set_num_updates(3)
    assert trainable(model) == {"proj", "w2v_model"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(batch.source, None, 1).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_convolutions_stay_frozen_where_the_factor_is_left_out() -> None:
    # The original crashes here: its parser's default of --feature-grad-mult is none.
    model = make(feature_grad_mult=0.0, freeze_finetune_updates=1)
    assert Wav2VecCtcConfig().feature_grad_mult == 0.0
    model.set_num_updates(1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all(".feature_extractor." in name for name in frozen)


def test_masks_apply_while_frozen_but_not_in_evaluation() -> None:
    model = make(freeze_finetune_updates=10, apply_mask=True, mask_length=3, mask_channel_length=4)
    source = batch_of([8000, 8000], [1, 1]).source
    assert not torch.equal(model(source, None, 1).logits, model(source, None, 2).logits)
    assert torch.equal(model(source, None, 1).logits, model(source, None, 1).logits)
    assert torch.equal(model.eval()(source, None, 1).logits, model(source, None, 2).logits)
    unmasked = make(freeze_finetune_updates=10).train()
    assert torch.equal(unmasked(source, None, 1).logits, unmasked(source, None, 2).logits)


def test_every_parameter_takes_part_whatever_is_masked_or_dropped() -> None:
    for options in (dict(apply_mask=True, mask_length=3), dict(layerdrop=1.0), {}):
        model = make(**options)
        batch = batch_of([8000, 300, 5000], [3, 1, 2])
        loss = CtcCriterion(CtcCriterionConfig(zero_infinity=True))(model(batch.source, batch.lengths, 1), batch)
        loss.value.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


# ---------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_clip_has_the_same_scores_alone_and_in_any_batch(mode: str, train: bool) -> None:
    model = make(mode).train(train)
    lengths = [16001, 9600, 400, 12345, 4321, 799]
    batch = batch_of(lengths, [1] * 6)
    together = model(batch.source, batch.lengths, 1)
    for i, length in enumerate(lengths):
        alone = model(batch.source[i : i + 1, :length], None, 1)
        frames = int(alone.lengths[0])
        assert together.lengths[i] == frames == alone.logits.shape[1]
        torch.testing.assert_close(together.logits[i, :frames], alone.logits[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_add_up_to_one_batch(mode: str) -> None:
    model = make(mode)
    criterion = CtcCriterion(CtcCriterionConfig())
    whole = batch_of([9000, 8000, 7001, 6000], [3, 5, 2, 4])
    loss = criterion(model(whole.source, whole.lengths, 1), whole)
    loss.value.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    total, sample_size = 0.0, 0
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4)):
        assert whole.targets is not None
        assert whole.target_lengths is not None
        lengths = whole.lengths[rows]
        part = AudioBatch(
            whole.source[rows, : int(lengths.max())], lengths, whole.indices[rows], 1, whole.targets[rows],
            whole.target_lengths[rows],
        )  # fmt: skip
        part_loss = criterion(model(part.source, part.lengths, 1), part)
        part_loss.value.backward()
        total += part_loss.value.item()
        sample_size += int(part_loss.sample_size)
    assert total == pytest.approx(loss.value.item(), rel=1e-6)
    assert sample_size == loss.sample_size
    for name, parameter in model.named_parameters():
        scale = expected[name.replace("k_proj.bias", "k_proj.weight")].abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5 * scale)


def test_bfloat16_keeps_the_loss_in_float32() -> None:
    model = make()
    batch = batch_of([8000, 5000], [3, 2])
    criterion = CtcCriterion(CtcCriterionConfig())
    full = criterion(model(batch.source, batch.lengths, 1), batch).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = criterion(model(batch.source, batch.lengths, 1), batch).value
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.05)
    half.backward()
