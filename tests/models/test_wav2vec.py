"""Oracles: full-size shapes recorded from the original, a clip alone against the same clip in a batch, brute force."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from w2v.config import ArgumentParser, build_config
from w2v.criterions.wav2vec_criterion import Wav2VecCriterion, Wav2VecCriterionConfig
from w2v.errors import ConfigError
from w2v.models.base import MODELS
from w2v.models.wav2vec import Wav2VecConfig, Wav2VecModel
from w2v.types import AudioBatch

SHAPES = Path(__file__).parent.parent / "assets" / "shapes"
TINY: dict[str, Any] = {
    "conv_feature_layers": "[(16, 10, 5), (16, 8, 4), (16, 4, 2)]",
    "conv_aggregator_layers": "[(16, 2, 1), (16, 3, 1)]",
    "prediction_steps": 3,
    "num_negatives": 4,
    "vq_vars": 10,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recipe": {"skip_connections_agg": True, "log_compression": True, "residual_scale": 0.5},
    "wide_aggregator": {"skip_connections_agg": True, "conv_aggregator_layers": "[(16, 2, 1), (24, 3, 1), (24, 1, 1)]"},
    "skip_features": {"skip_connections_feat": True, "agg_zero_pad": True, "no_conv_bias": True},
    "gru": {"aggregator": "gru", "gru_dim": 20},
    "gelu_non_affine": {"activation": "gelu", "non_affine_group_norm": True},
    "project_same": {"project_features": "same"},
    "project_new": {"project_features": "new"},
    "offset": {"offset": "5"},
    "cross": {"num_negatives": 2, "cross_sample_negatives": 3},
    "only_cross": {"num_negatives": 0, "cross_sample_negatives": 3},
    "distance": {"sample_distance": 6},
    "balanced": {"balanced_classes": True},
    "dropouts": {"dropout": 0.1, "dropout_features": 0.1, "dropout_agg": 0.1},
    "gumbel": {"vq_type": "gumbel", "vq_groups": 2, "vq_depth": 2},
    "gumbel_combined": {"vq_type": "gumbel", "combine_groups": True, "vq_groups": 4},
    "gumbel_wide": {"vq_type": "gumbel", "vq_dim": 24},
    "kmeans": {"vq_type": "kmeans", "vq_groups": 2},
    "kmeans_combined": {"vq_type": "kmeans", "combine_groups": True, "vq_gamma": 0.5},
}
DETERMINISTIC = [name for name in VARIANTS if name != "dropouts"]


def build(**changes: Any) -> Wav2VecModel:
    torch.manual_seed(5)
    model = Wav2VecModel(build_config(Wav2VecConfig, {**TINY, **changes}, "test"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def speech(*lengths: int, seed: int = 0) -> Tensor:
    """Return zero-padded noise, one row per length."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        batch[row, :length] = 0.1 * torch.randn(length, generator=generator)
    return batch


@pytest.mark.parametrize("name", ["w2v1_large_recipe", "vq_gumbel_recipe", "vq_kmeans_recipe"])
def test_parameters_of_the_published_recipes(name: str) -> None:
    recorded = json.loads((SHAPES / f"{name}.json").read_text())
    parser = ArgumentParser(prog="test")
    parser.add_config(Wav2VecConfig, "model")
    config = Wav2VecConfig(**parser.parse(recorded["flags"]))
    with torch.device("meta"):
        model = Wav2VecModel(config)
    assert config.offset_frames == recorded["offset"]
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == recorded["tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == recorded["num_parameters"]


def test_preset_large_is_the_recipe() -> None:
    recorded = json.loads((SHAPES / "w2v1_large_recipe.json").read_text())
    parser = ArgumentParser(prog="test")
    parser.add_config(Wav2VecConfig, "model")
    entry = MODELS.get("wav2vec_large")
    assert build_config(entry.config, entry.overrides, "preset") == Wav2VecConfig(**parser.parse(recorded["flags"]))


def test_preset_small_is_the_paper() -> None:
    entry = MODELS.get("wav2vec_small")
    config = build_config(entry.config, entry.overrides, "preset")
    assert [layer[1:] for layer in config.conv_feature_layers] == [(10, 5), (8, 4), (4, 2), (4, 2), (4, 2)]
    assert config.conv_aggregator_layers == ((512, 3, 1),) * 9
    assert (config.prediction_steps, config.num_negatives, config.offset_frames) == (12, 10, 3)


@pytest.mark.parametrize("infonce", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant: str, infonce: bool) -> None:
    model = build(**VARIANTS[variant]).train()
    source = speech(2000, 1500)
    batch = AudioBatch(source, torch.tensor([2000, 1500]), torch.arange(2), 3)
    output = model(source, batch.lengths, 3)
    negatives = model.config.num_negatives + model.config.cross_sample_negatives
    assert output.logits.shape[1] == 1 + negatives
    weights = (1.0,) if output.penalties else None
    loss = Wav2VecCriterion(Wav2VecCriterionConfig(infonce=infonce, loss_weights=weights))(output, batch)
    loss.value.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # The softmax over codewords ignores what all of its logits share, but no whole tensor is without effect.
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("variant", DETERMINISTIC)
def test_a_clip_has_the_same_features_alone_and_in_a_batch(variant: str) -> None:
    model = build(**VARIANTS[variant]).eval()
    lengths = torch.tensor([1234, 3000, 2001])
    batch = speech(*lengths.tolist())
    with torch.no_grad():
        together = model.extract_features(batch, lengths)
        latent = model.extract_features(batch, lengths, layer="z")
        for row, length in enumerate(lengths.tolist()):
            alone = model.extract_features(batch[row : row + 1, :length], None)
            frames = alone.features.shape[1]
            assert together.lengths is not None
            assert int(together.lengths[row]) == frames
            torch.testing.assert_close(together.features[row, :frames], alone.features[0], rtol=1e-5, atol=1e-6)
            z = model.extract_features(batch[row : row + 1, :length], None, layer="z")
            torch.testing.assert_close(latent.features[row, :frames], z.features[0], rtol=1e-5, atol=1e-6)
            if model.vector_quantizer is not None:
                codes, true_frames = model.extract_codes(batch, lengths)
                assert int(true_frames[row]) == frames
                assert torch.equal(codes[row, :frames], model.extract_codes(batch[row : row + 1, :length], None)[0][0])


@pytest.mark.parametrize("variant", ["plain", "recipe", "gru", "project_new", "kmeans", "gumbel", "offset"])
def test_a_padded_batch_has_the_logits_of_its_clips(variant: str) -> None:
    model = build(**VARIANTS[variant]).eval()
    lengths = torch.tensor([1234, 3000, 240, 50])
    batch = speech(*lengths.tolist())
    with torch.no_grad():
        together = model(batch, lengths, 11)
        width = model.extract_features(batch, lengths, layer="z").features.shape[1]
        negatives = model._draw_negatives(model._frames(batch, lengths), width, batch.device, 11)
        rows = []
        for row, length in enumerate(lengths.tolist()):
            source = batch[row : row + 1, :length]
            frames = model.extract_features(source, None, layer="z").features.shape[1]
            own = negatives[row : row + 1, :frames] - row * width
            assert (own[:, 1:] < frames).all()
            rows.append(model(source, None, 0, negative_indices=own.clamp(max=frames - 1)).logits)
    torch.testing.assert_close(together.logits, torch.cat(rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["gumbel", "kmeans"])
def test_padding_counts_neither_in_perplexities_nor_in_penalties(variant: str) -> None:
    model = build(**VARIANTS[variant]).eval()
    lengths = torch.tensor([1500, 1500])
    batch = speech(1500, 1500)
    wide = torch.cat([batch, torch.zeros(2, 700)], dim=1)
    with torch.no_grad():
        tight, padded = model(batch, lengths, 0), model(wide, lengths, 0)
    assert tight.stats.keys() == padded.stats.keys()
    for key, value in tight.stats.items():
        torch.testing.assert_close(torch.as_tensor(padded.stats[key]), torch.as_tensor(value))
    for key, value in tight.penalties.items():
        torch.testing.assert_close(padded.penalties[key], value)


@pytest.mark.parametrize("variant", ["plain", "gumbel", "cross"])
def test_draws_follow_from_the_seed_alone(variant: str) -> None:
    model = build(**VARIANTS[variant]).train()
    batch = speech(2000, 2000)
    first = model(batch, None, 5).logits
    torch.manual_seed(99)
    assert torch.equal(first, model(batch, None, 5).logits)
    assert not torch.equal(first, model(batch, None, 6).logits)


def test_context_is_causal() -> None:
    """A later change of the latent frames leaves earlier frames of an aggregator without norms' statistics alone."""
    model = build(aggregator="gru", gru_dim=12).eval()
    latent = torch.randn(1, 16, 40)
    changed = latent.clone()
    changed[..., 30:] += 1
    with torch.no_grad():
        before, after = model.feature_aggregator(latent), model.feature_aggregator(changed)
    torch.testing.assert_close(before[..., :30], after[..., :30])
    assert (before[..., 30:] != after[..., 30:]).any()


def test_temperature_follows_updates() -> None:
    model = build(vq_type="gumbel", vq_temp="(2, 0.5, 0.9)")
    batch = speech(1500)
    assert model(batch, None, 0).stats["temp"] == 2
    model.set_num_updates(3)
    assert model(batch, None, 0).stats["temp"] == pytest.approx(2 * 0.9**3)
    model.set_num_updates(1000)
    assert model(batch, None, 0).stats["temp"] == 0.5


@pytest.mark.parametrize("variant", ["plain", "cross", "gumbel", "kmeans", "project_new", "gru"])
@pytest.mark.parametrize("length", [200, 104, 3])
def test_a_clip_too_short_for_any_prediction_costs_nothing(length: int, variant: str) -> None:
    model = build(**VARIANTS[variant]).train()
    source = speech(length)
    output = model(source, None, 0)
    assert output.logits.shape == (0, 1 + model.config.num_negatives + model.config.cross_sample_negatives)
    assert model.extract_features(source, None).features.shape[1] == max((length - 105) // 40 + 1, 0)
    output.logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_shortest_clip_is_the_first_that_has_a_prediction(variant: str) -> None:
    model = build(**VARIANTS[variant]).eval()
    with torch.no_grad():
        assert len(model(speech(model.shortest_clip), None, 0).logits) == 1
        assert len(model(speech(model.shortest_clip - 1), None, 0).logits) == 0


@pytest.mark.parametrize("vq_type", ["gumbel", "kmeans"])
def test_library_use_as_in_the_original_readme(vq_type: str) -> None:
    """The layers are the recipe's, their widths are not."""
    args = Namespace(
        arch="wav2vec",
        task="audio_pretraining",
        infonce=True,
        conv_feature_layers="[(32, 10, 5), (32, 8, 4), (32, 4, 2), (32, 4, 2), (32, 4, 2)] + [(32, 1, 1)] * 3",
        conv_aggregator_layers="[(32, 2, 1), (32, 3, 1)]",
        activation="gelu",
        vq_type=vq_type,
        vq_groups=2,
        vq_depth=2,
        combine_groups=True,
        vq_vars=320,
        vq_temp="(2,0.5,0.999995)",
        sample_distance=None,
    )
    model = Wav2VecModel.build_model(args, task=None)
    model.eval()
    wav_input_16khz = torch.randn(1, 10000)
    z = model.feature_extractor(wav_input_16khz)
    quantized, idxs = model.vector_quantizer.forward_idx(z)
    assert idxs.shape == torch.Size([1, 60, 2])
    assert quantized.shape == z.shape == torch.Size([1, 32, 60])
    assert model.feature_aggregator(z).shape == torch.Size([1, 32, 60])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": "0"}, "--offset"),
        ({"offset": "soon"}, "--offset"),
        ({"num_negatives": 0}, "--num-negatives"),
        ({"prediction_steps": 0}, "--prediction-steps"),
        ({"dropout": 1.5}, "--dropout"),
        ({"conv_aggregator_layers": "[(16, 3, 2)]"}, "--conv-aggregator-layers"),
        ({"project_features": "same", "conv_aggregator_layers": "[(24, 3, 1)]"}, "--project-features"),
        ({"vq_type": "gumbel", "vq_groups": 3}, "--vq-groups"),
        ({"vq_type": "kmeans", "vq_dim": 24}, "--vq-dim"),
        ({"vq_type": "gumble"}, "did you mean 'gumbel'"),
        ({"conv_feature_layers": "__import__('os')"}, "--conv-feature-layers"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(Wav2VecConfig, {**TINY, **changes}, "test")


def test_offset_auto_shares_no_samples() -> None:
    """A frame sees 105 samples and frames are 40 samples apart: the third frame on is the first to see others only."""
    config = build_config(Wav2VecConfig, TINY, "test")
    assert config.offset_frames == next(offset for offset in range(99) if 40 * offset >= 10 + 7 * 5 + 3 * 20)
    assert replace(config, offset="7").offset_frames == 7
