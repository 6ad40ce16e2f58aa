"""Fine-tuning for CTC: a pretrained wav2vec 2.0 encoder and one linear layer over symbols (section 3.3).

The model carries its encoder's configuration (`w2v_args`), so a fine-tuned checkpoint needs no second file. It
never opens files: whoever builds it hands over the pretrained configuration and tensors.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2v.config import arg, build_config, check_range, to_plain
from w2v.errors import CheckpointError, ConfigError
from w2v.functional.conv_spec import receptive_field
from w2v.functional.dropout import dropout
from w2v.models.base import MODELS, W2vModel, register_model
from w2v.models.wav2vec2_config import MaskOptions, Wav2Vec2EncoderConfig
from w2v.models.wav2vec2_encoder import Masks, Wav2Vec2Encoder
from w2v.types import CtcOutput, Features

ENCODER_PREFIX = "w2v_encoder.w2v_model."
"""Where a fine-tuned model holds the tensors of its encoder."""

PRETRAINING_HEADS = ("quantizer.", "project_q.", "target_glu.", "final_proj.")
"""Prefixes of tensors that only pretraining uses."""

_NAMES_NAMED = 5


def _plain_config(value: Any) -> dict[str, Any]:
    """Read the encoder's configuration from a mapping, or from JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as e:
            raise ValueError(f"is no JSON: {e}") from e
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a JSON object of options, got {value!r}")
    return {str(key): item for key, item in value.items()}


@dataclass(frozen=True)
class Wav2VecCtcConfig(MaskOptions):
    """Options of fine-tuning. All but the first two and the last replace what the encoder was pretrained with."""

    w2v_path: str | None = arg(None, help="pretrained checkpoint")
    no_pretrained_weights: bool = arg(False, help="take only the configuration from --w2v-path, and random weights")
    final_dropout: float = arg(0.0, help="dropout before the output layer")
    apply_mask: bool = arg(False, help="mask spans of frames and channels during training")
    dropout: float = arg(0.0, help="dropout after attention and feed-forward")
    attention_dropout: float = arg(0.0, help="dropout on attention weights")
    activation_dropout: float = arg(0.0, help="dropout inside feed-forward layers", aliases=("--relu-dropout",))
    mask_prob: float = arg(0.5, help="share of frames aimed at by masks, before overlaps")
    mask_channel_prob: float = arg(0.5, help="share of channels aimed at by channel masks; on unless set to 0")
    freeze_finetune_updates: int = arg(0, help="train the output layer alone for so many updates")
    # Differs from the original, which crashes where the flag is left out: its parser's default is none.
    feature_grad_mult: float = arg(0.0, help="factor on gradients that enter the convolutions; 0: they do not train")
    layerdrop: float = arg(0.0, help="probability of skipping a transformer block in an update")
    w2v_args: Mapping[str, Any] | None = arg(
        None,
        help="the encoder's options as JSON; kept in checkpoints, normally read from --w2v-path",
        parse=_plain_config,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self, 0, 1, "final_dropout", "dropout", "attention_dropout", "activation_dropout", "mask_prob",
            "mask_channel_prob", "layerdrop",
        )  # fmt: skip
        check_range(self, 0, math.inf, "freeze_finetune_updates", "feature_grad_mult")

    def encoder_overrides(self) -> dict[str, Any]:
        """Return the encoder's options that fine-tuning replaces."""
        same = (
            *(item.name for item in dataclasses.fields(MaskOptions)), "mask_prob", "mask_channel_prob", "dropout",
            "activation_dropout", "attention_dropout", "feature_grad_mult",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in same}, "encoder_layerdrop": self.layerdrop}


class _CtcEncoder(nn.Module):
    """The encoder and its output layer, under the original's names."""

    def __init__(self, config: Wav2Vec2EncoderConfig, num_classes: int) -> None:
        super().__init__()
        self.w2v_model = Wav2Vec2Encoder(config)
        self.proj = nn.Linear(config.encoder_embed_dim, num_classes)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)


@register_model("wav2vec_ctc", Wav2VecCtcConfig)
class Wav2VecCtc(W2vModel):
    """Encoder and output layer.

    Args:
        config: the options, with `w2v_args` filled in.
        encoder_config: the encoder's options, overrides applied.
        num_classes: symbols V, blank included.
    """

    def __init__(self, config: Wav2VecCtcConfig, encoder_config: Wav2Vec2EncoderConfig, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.conv_layers = encoder_config.conv_feature_layers
        self.shortest_clip = receptive_field(encoder_config.conv_feature_layers)
        self.w2v_encoder = _CtcEncoder(encoder_config, num_classes)
        self.is_frozen = False
        self.set_num_updates(0)

    @classmethod
    def build(cls, config: Wav2VecCtcConfig, **context: Any) -> Wav2VecCtc:
        """Build the model.

        Args:
            config: the options.
            context: `num_classes`, symbols V with the blank; `pretrained_config`, the options of a model that has
                such an encoder, pretrained or fine-tuned, or None to take them from `config.w2v_args`;
                `pretrained_state`, its tensors, or None for random weights.

        Raises:
            ConfigError: the symbols or the encoder's options are not known.
            CheckpointError: the tensors do not fit them.
        """
        if "num_classes" not in context:
            raise ConfigError("--arch wav2vec_ctc needs labels; give --labels, such as --labels ltr")
        num_classes: int = context["num_classes"]
        given: Any = context.get("pretrained_config")
        state: Mapping[str, Tensor] | None = context.get("pretrained_state")
        if given is None:
            pretrained_config = _config_of(config)
        elif isinstance(given, Wav2VecCtcConfig):  # fine-tuned already
            pretrained_config, state = _config_of(given), state and _encoder_tensors(state)
        elif isinstance(given, Wav2Vec2EncoderConfig):
            pretrained_config = given
        else:
            raise ConfigError("--w2v-path: the model there is no wav2vec 2.0; --arch wav2vec_ctc needs such an encoder")
        config = dataclasses.replace(config, w2v_args=to_plain(pretrained_config))
        encoder_config = dataclasses.replace(pretrained_config, **config.encoder_overrides())
        model = cls(config, encoder_config, num_classes)
        if state is not None:
            load_encoder(model.w2v_encoder.w2v_model, state)
        return model

    def set_num_updates(self, num_updates: int) -> None:
        """Freeze or thaw the encoder, and pass on how many updates are done."""
        encoder = self.w2v_encoder.w2v_model
        encoder.set_num_updates(num_updates)
        self.is_frozen = num_updates < self.config.freeze_finetune_updates
        encoder.requires_grad_(not self.is_frozen)
        if self.config.feature_grad_mult == 0:
            encoder.feature_extractor.requires_grad_(False)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None,
        seed: int,
        *,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
    ) -> CtcOutput:
        """Return scores of symbols per frame; masks apply in training only, frozen or not.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
            seed: base of the masks.
            mask_indices: (B, T) bool to use instead of drawing.
            mask_channel_indices: (B, C) bool to use instead of drawing.
        """
        encoder = self.w2v_encoder.w2v_model
        frames = encoder.frames(source, lengths)
        masks = Masks()
        if self.training and self.config.apply_mask:
            masks = encoder.draw_masks(len(source), frames, seed)
        if mask_indices is not None:
            masks = dataclasses.replace(masks, time=mask_indices.cpu().numpy())
        if mask_channel_indices is not None:
            masks = dataclasses.replace(masks, channel=mask_channel_indices.cpu().numpy())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            context = encoder.encode(source, lengths, frames, masks, seed).context
        context = dropout(context, self.config.final_dropout, self.training)
        logits = self.w2v_encoder.proj(context)
        return CtcOutput(logits, torch.tensor(frames.per_clip(len(source)), dtype=torch.int64))

    def extract_features(self, source: Tensor, lengths: Tensor | None) -> Features:
        """Return the encoder's contexts of (B, S) samples, without masks."""
        encoder = self.w2v_encoder.w2v_model
        frames = encoder.frames(source, lengths)
        return Features(encoder.encode(source, lengths, frames, Masks(), seed=0).context, frames.lengths)


def _config_of(config: Wav2VecCtcConfig) -> Wav2Vec2EncoderConfig:
    """Return the encoder's options from `w2v_args`."""
    if config.w2v_args is None:
        raise ConfigError(
            "--w2v-path: a wav2vec_ctc model needs its encoder's options; give a pretrained checkpoint "
            "(with --no-pretrained-weights if only its options are wanted), or --w2v-args"
        )
    name = config.w2v_args.get("_name", "wav2vec2")
    entry = MODELS.get(name)
    encoder_config: Any = build_config(entry.config, {**entry.overrides, **config.w2v_args}, "--w2v-args")
    if not isinstance(encoder_config, Wav2Vec2EncoderConfig):
        raise ConfigError(f"--w2v-path: wav2vec_ctc needs a wav2vec 2.0 encoder, got a model of --arch {name}")
    return encoder_config


def _encoder_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors of a fine-tuned model, under the names of a pretrained one."""
    names = (name for name in state if name.startswith(ENCODER_PREFIX))
    return {name.removeprefix(ENCODER_PREFIX): state[name] for name in names}


def load_encoder(encoder: Wav2Vec2Encoder, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of a pretrained model, without the heads that only pretraining uses.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; their names are listed.
    """
    wanted = encoder.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.startswith(PRETRAINING_HEADS)}
    problems = [
        ("it lacks", sorted(wanted.keys() - given.keys())),
        ("it holds unknown", sorted(given.keys() - wanted.keys())),
        (
            "of another shape:",
            sorted(name for name in wanted.keys() & given.keys() if wanted[name].shape != given[name].shape),
        ),
    ]
    found = [f"{what} {_listed(names)}" for what, names in problems if names]
    if found:
        raise CheckpointError(f"--w2v-path: the pretrained tensors do not fit their options: {'; '.join(found)}")
    encoder.load_state_dict(given)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_NAMED
    return ", ".join(names[:_NAMES_NAMED]) + (f" and {more} more" if more > 0 else "")
