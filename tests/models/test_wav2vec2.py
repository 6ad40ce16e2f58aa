"""wav2vec 2.0: tensor names of the recipes, padding that never leaks, options, traps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import MODES, tiny_wav2vec2

from w2v.config import ArgumentParser, build_config, to_plain
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.errors import ConfigError
from w2v.models import MODELS
from w2v.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from w2v.models.wav2vec_ctc import Wav2VecCtc, Wav2VecCtcConfig
from w2v.types import AudioBatch

SHAPES = Path(__file__).parent.parent / "assets" / "shapes"
PRETRAINING = ("w2v2_base_recipe", "w2v2_large_recipe_default_extractor", "w2v2_large_lv60_style")
CHANGES: dict[str, Any] = dict(
    latent_groups=2,
    num_negatives=5,
    mask_length=3,
    dropout=0.0,
    attention_dropout=0.0,
)


def make(**changes: Any) -> Wav2Vec2Model:
    return tiny_wav2vec2(**{**CHANGES, **changes})


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.zeros(len(lengths), max(lengths))
    for i, length in enumerate(lengths):
        source[i, :length] = torch.randn(length, generator=torch.Generator().manual_seed(i))
    return source, torch.tensor(lengths)


def recorded_shapes(name: str) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    recorded = json.loads((SHAPES / f"{name}.json").read_text())
    shapes = {}
    for key, shape in recorded["tensors"].items():
        for layer in range(recorded["num_layers"] if "*" in key else 1):
            shapes[key.replace("*", str(layer))] = tuple(shape)
    assert len(shapes) == recorded["num_tensors"]
    return shapes, recorded


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", PRETRAINING)
def test_names_and_shapes_of_the_recipes(name: str) -> None:
    shapes, recorded = recorded_shapes(name)
    entry = MODELS.get("wav2vec2")
    parser = ArgumentParser(prog="test")
    parser.add_config(entry.config, "wav2vec2")
    config = build_config(entry.config, parser.parse(recorded["flags"]), "recipe")
    with torch.device("meta"):
        model = entry.cls.build(config)
    assert shapes_of(model) == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == recorded["num_parameters"]


def test_the_large_preset_is_the_large_recipe() -> None:
    shapes, _ = recorded_shapes("w2v2_large_recipe_default_extractor")
    entry = MODELS.get("wav2vec2_large")
    with torch.device("meta"):
        assert shapes_of(entry.cls.build(build_config(entry.config, entry.overrides, "preset"))) == shapes


def test_names_and_shapes_of_ctc() -> None:
    shapes, _ = recorded_shapes("ctc_base_recipe")
    _, base = recorded_shapes("w2v2_base_recipe")
    parser = ArgumentParser(prog="test")
    parser.add_config(Wav2Vec2Config, "wav2vec2")
    pretrained = build_config(Wav2Vec2Config, parser.parse(base["flags"]), "recipe")
    with torch.device("meta"):
        model = Wav2VecCtc.build(Wav2VecCtcConfig(), num_classes=32, pretrained_config=pretrained)
    assert shapes_of(model) == shapes


def test_optional_tensors_have_the_originals_names() -> None:
    names = set(make(quantize_input=True, target_glu=True).state_dict())
    assert {"input_quantizer.vars", "project_inp.weight", "target_glu.0.weight"} <= names
    assert "post_extract_proj.weight" not in names
    shared = make(quantize_input=True, same_quantizer=True)
    assert shared.quantizer is shared.input_quantizer
    assert {"quantizer.vars", "input_quantizer.vars"} <= set(shared.state_dict())
    assert "post_extract_proj.weight" not in make(encoder_embed_dim=16).state_dict()


# ---------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_clip_has_the_same_features_alone_and_in_any_batch(mode: str, train: bool) -> None:
    model = make(**MODES[mode]).train(train)
    # 399 samples are too short for a frame; 16001 and 4321 end between frames.
    lengths = [16001, 9600, 400, 12345, 4321, 799]
    source, lengths_tensor = padded(lengths)
    together = model.extract_features(source, lengths_tensor)
    assert together.lengths is not None
    for i, length in enumerate(lengths):
        alone = model.extract_features(source[i : i + 1, :length], None)
        frames = alone.features.shape[1]
        assert together.lengths[i] == frames
        torch.testing.assert_close(together.features[i, :frames], alone.features[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_in_the_padding_does_not_matter(mode: str) -> None:
    model = make(**MODES[mode])
    source, lengths = padded([8000, 5000, 300])
    dirty = source.clone()
    for i, length in enumerate(lengths.tolist()):
        dirty[i, length:] = 100.0
    outputs = [model(each, lengths, seed=3) for each in (source, dirty)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=1e-5, atol=1e-5)
    for name in ("features_pen", "diversity"):
        torch.testing.assert_close(outputs[0].penalties[name], outputs[1].penalties[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_penalty_counts_valid_frames_only(mode: str) -> None:
    model = make(**MODES[mode])
    source, lengths = padded([8000, 5000])
    together = model(source, lengths, seed=1).penalties["features_pen"]
    alone = [model(source[i : i + 1, :n], None, seed=1).penalties["features_pen"] for i, n in enumerate([8000, 5000])]
    frames = [24, 15]
    expected = (alone[0] * frames[0] + alone[1] * frames[1]) / sum(frames)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-6)


def test_original_padding_lets_padding_count() -> None:
    source, lengths = padded([16000, 9707])
    exact, original = make(), make(original_padding=True)
    ours, theirs = (m.eval().extract_features(source, lengths) for m in (exact, original))
    alone = exact.extract_features(source[1:, :9707], None)
    frames = alone.features.shape[1]
    assert ours.lengths is not None
    assert theirs.lengths is not None
    assert ours.lengths[1] == frames
    assert (theirs.features[1, :frames] - alone.features[0]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [[8000, 399], [8000, 0, 5000], [300, 200], [5, 3]])
def test_clips_too_short_for_a_frame(mode: str, lengths: list[int]) -> None:
    model = make(**MODES[mode])
    source, lengths_tensor = padded(lengths)
    output = model(source, lengths_tensor, seed=2)
    assert torch.isfinite(output.logits[:, 0]).all()
    loss = loss_of(model, source, lengths_tensor)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    features = model.extract_features(source, lengths_tensor)
    assert torch.isfinite(features.features).all()


def loss_of(model: Wav2Vec2Model, source: torch.Tensor, lengths: torch.Tensor | None, seed: int = 2) -> torch.Tensor:
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=True, loss_weights=(0.1, 10.0)))
    all_lengths = torch.full((len(source),), source.shape[1]) if lengths is None else lengths
    batch = AudioBatch(source, all_lengths, torch.arange(len(source)), seed)
    return criterion(model(source, lengths, seed), batch).value


@pytest.mark.parametrize("mode", MODES)
def test_matrix_products_change_rounding_only(mode: str) -> None:
    """The fast arrangement for CPUs, padded: features, loss and gradients of the slow one."""
    model = make(**MODES[mode])
    source, lengths = padded([8000, 399, 5000])
    losses, gradients, features = [], [], []
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        try:
            features.append(model.extract_features(source, lengths).features)
            losses.append(loss_of(model, source, lengths))
        finally:
            torch.set_float32_matmul_precision("highest")
        gradients.append(torch.autograd.grad(losses[-1], list(model.parameters())))
    for i, frames in enumerate([24, 0, 15]):
        torch.testing.assert_close(features[1][i, :frames], features[0][i, :frames], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
    for (name, _), mine, theirs in zip(model.named_parameters(), gradients[1], gradients[0], strict=True):
        if not name.endswith("k_proj.bias"):  # whose true gradient is 0
            assert (mine - theirs).norm() <= 1e-4 * theirs.norm() + 1e-6, name


# ---------------------------------------------------------------------------------------------- randomness


def test_every_draw_follows_the_seed() -> None:
    model = make()
    source, lengths = padded([8000, 7000])
    torch.manual_seed(1)
    first = model(source, lengths, seed=5)
    torch.manual_seed(2)
    again, other = model(source, lengths, seed=5), model(source, lengths, seed=6)
    assert torch.equal(first.logits, again.logits)
    assert first.logits.shape != other.logits.shape or not torch.equal(first.logits, other.logits)


def test_masks_apply_in_evaluation_too() -> None:
    model = make().eval()
    source, _ = padded([8000, 8000])
    assert not torch.equal(model(source, None, seed=1).logits, model(source, None, seed=2).logits)


def test_without_masks_all_frames_are_predicted() -> None:
    model = make(mask_prob=0.0)
    source, lengths = padded([8000, 5000])
    assert model(source, None, seed=1).logits.shape == (2 * 24, 6)
    assert model(source, lengths, seed=1).logits.shape == (2 * 15, 6)  # as many of each clip
    loss_of(model, source, lengths).backward()
    assert model.mask_emb.grad is not None
    assert not model.mask_emb.grad.any()


def test_the_diversity_penalty_is_divided_by_the_size_of_the_codebook() -> None:
    # wav2vec 1 does not divide; both count it once per prediction.
    model = make()
    output = model(padded([8000])[0], None, seed=1)
    size = 6 * 2
    expected = (size - float(output.stats["prob_perplexity"])) / size
    assert output.penalties["diversity"].item() == pytest.approx(expected)
    assert list(output.penalties) == ["diversity", "features_pen"]
    assert output.stats["temp"] == 2.0
    model.set_num_updates(1000)
    assert model(padded([8000])[0], None, seed=1).stats["temp"] == pytest.approx(2 * 0.999995**1000)


# ---------------------------------------------------------------------------------------------- options

OPTIONS: list[dict[str, Any]] = [
    dict(quantize_targets=False),
    dict(quantize_targets=False, negatives_from_everywhere=True),
    dict(negatives_from_everywhere=True, cross_sample_negatives=3),
    dict(cross_sample_negatives=3),
    dict(num_negatives=0, cross_sample_negatives=3),
    dict(codebook_negatives=4, target_glu=True),
    dict(quantize_input=True),
    dict(quantize_input=True, same_quantizer=True),
    dict(quantize_input=True, quantize_targets=False),
    dict(mask_channel_prob=0.5, mask_channel_length=4, no_mask_channel_overlap=True),
    dict(mask_selection="uniform", mask_other=1.0),
    dict(mask_selection="poisson"),
    dict(mask_selection="normal", mask_other=1.0, no_mask_overlap=True),
    dict(latent_dim=8, dropout_features=0.1, dropout_input=0.1, dropout=0.1, attention_dropout=0.1),
    dict(encoder_layerdrop=1.0),
    dict(feature_grad_mult=0.0),
    dict(activation_fn="tanh", conv_pos=5, final_dim=0),
]


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: ",".join(changes))
def test_options_train(changes: dict[str, Any]) -> None:
    """Every trainable parameter gets a finite gradient, so plain DistributedDataParallel can be used."""
    model = make(**changes)
    source, lengths = padded([8000, 5000, 6400])
    output = model(source, lengths, seed=7)
    negatives = sum(
        getattr(model.config, name) for name in ("num_negatives", "cross_sample_negatives", "codebook_negatives")
    )
    assert output.logits.shape[1] == 1 + negatives
    weights = (1.0,) * len(output.penalties)
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=True, loss_weights=weights))
    criterion(output, AudioBatch(source, lengths, torch.arange(3), 7)).value.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    # The plain values must build the same config again: checkpoints hold nothing else.
    assert build_config(Wav2Vec2Config, to_plain(model.config), "plain") == model.config


def test_no_graph_for_convolutions_that_do_not_train() -> None:
    model = make(feature_grad_mult=0.0)
    assert not any(parameter.requires_grad for parameter in model.feature_extractor.parameters())
    source, _ = padded([8000])
    assert not model(source, None, seed=1).penalties["features_pen"].requires_grad


def test_gradient_factor_scales_the_penalty_too() -> None:
    source, _ = padded([8000])
    gradients = []
    for factor in (1.0, 0.1):
        model = make(feature_grad_mult=factor)
        model(source, None, seed=1).penalties["features_pen"].backward()
        gradients.append(model.feature_extractor.conv_layers[3].get_parameter("0.weight").grad)
    torch.testing.assert_close(gradients[1], gradients[0] * 0.1)


@pytest.mark.parametrize("lengths", [[8000, 8000], [8000, 5000]])
@pytest.mark.parametrize("changes", [{}, MODES["layer_norm"], dict(quantize_targets=False)])
def test_nothing_is_read_back_from_the_device(changes: dict[str, Any], lengths: list[int]) -> None:
    """On the meta device there is nothing to read: a step that needs a value of a tensor would fail."""
    with torch.device("meta"):
        model = make(mask_channel_prob=0.2, mask_channel_length=3, **changes)
    source = torch.zeros(2, 8000, device="meta")
    mask = torch.zeros(2, 24, dtype=torch.bool)
    mask[:, 3:10] = True
    output = model(
        source,
        torch.tensor(lengths),
        seed=1,
        mask_indices=mask,
        negative_indices=torch.zeros(2, 7, 5, dtype=torch.long, device="meta"),
        gumbel_noise=torch.zeros(2 * 7 * 2, 6, device="meta"),
    )
    weights = (1.0,) * len(output.penalties)
    criterion = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=True, loss_weights=weights))
    criterion(output, AudioBatch(source, torch.tensor(lengths), torch.arange(2), 1)).value.backward()
    assert model.mask_emb.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lengths", [[8000, 8000], [8000, 5000]])
@pytest.mark.parametrize("mode", MODES)
def test_a_step_never_waits_for_the_gpu(mode: str, lengths: list[int]) -> None:
    model = make(mask_channel_prob=0.2, mask_channel_length=3, **MODES[mode]).cuda()
    source, lengths_tensor = padded(lengths)
    source = source.cuda()
    loss_of(model, source, lengths_tensor).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_of(model, source, lengths_tensor).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(mask_prob=1.5), r"--mask-prob must lie in \[0, 1\], got 1.5"),
        (dict(encoder_layers=0), "--encoder-layers must be at least 1, got 0"),
        (dict(encoder_attention_heads=5), r"--encoder-attention-heads must divide --encoder-embed-dim \(24\), got 5"),
        (dict(conv_pos_groups=7), "--conv-pos-groups must divide"),
        (dict(latent_groups=5), "--latent-groups must divide"),
        (dict(latent_temp="(0.5, 2, 0.9)"), "--latent-temp must hold"),
        (dict(latent_temp="(2, 0.5)"), "--latent-temp: must be three numbers"),
        (dict(logit_temp=0.0), "--logit-temp must be greater than 0"),
        (dict(num_negatives=0), "--num-negatives must be at least 1"),
        (dict(codebook_negatives=2, quantize_targets=False), "--codebook-negatives needs --quantize-targets"),
        (dict(conv_feature_layers="[(512, 10)]"), "--conv-feature-layers: each layer must be"),
        (dict(extractor_mode="layernorm"), "--extractor-mode must be one of"),
        (dict(feature_grad_mult=-1.0), "--feature-grad-mult must be at least 0"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


# ---------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_keeps_the_loss_in_float32(mode: str) -> None:
    model = make(**MODES[mode])
    source, lengths = padded([8000, 5000])
    full = model(source, lengths, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(source, lengths, seed=1)
        loss = loss_of(model, source, lengths)
    for output in (full, half):
        assert output.logits.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in output.penalties.values())
    assert loss.dtype == torch.float32
    for name, value in full.penalties.items():
        assert half.penalties[name].item() == pytest.approx(value.item(), rel=0.05)
    loss.backward()


def test_huge_features_do_not_overflow() -> None:
    model = make()
    source, _ = padded([8000, 8000])
    with torch.no_grad():
        # Six convolutions without a norm between them: the penalty squares what they make.
        model.feature_extractor.conv_layers[-1].get_parameter("0.weight").mul_(6e4)
    with torch.autocast("cpu", dtype=torch.float16):
        output = model(source, None, seed=1)
    assert output.penalties["features_pen"].dtype == torch.float32
    assert torch.isfinite(output.logits[:, 0]).all()
