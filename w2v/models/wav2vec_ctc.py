"""Fine-tuning for CTC: a pretrained wav2vec 2.0 encoder and one linear layer over symbols (section 3.3).

The model carries its encoder's configuration (`w2v_args`), so a fine-tuned checkpoint needs no second file. It
never opens files: its caller hands over the pretrained configuration and tensors.
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
from w2v.errors import ConfigError
from w2v.functional.conv_spec import receptive_field
from w2v.functional.dropout import dropout
from w2v.models.base import MODELS, W2vModel, draw_seed, load_pretrained, register_model
from w2v.models.discrete_bert import DiscreteBertCtc, bert_options
from w2v.models.freezing import Freezing
from w2v.models.wav2vec2_config import MaskOptions, Wav2Vec2EncoderConfig
from w2v.models.wav2vec2_encoder import Frames, Masks, Wav2Vec2Encoder, layer_frames, layer_names
from w2v.types import CtcOutput

ENCODER_PREFIX = "w2v_encoder.w2v_model."
"""Where a fine-tuned model holds the tensors of its encoder."""

PRETRAINING_HEADS = ("quantizer.", "project_q.", "target_glu.", "final_proj.", "label_embs_concat")
"""Prefixes of tensors that only pretraining uses."""


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

    w2v_path: str | None = arg(None, help="pretrained checkpoint", reads="model")
    bert_path: str | None = arg(
        None, help="masked language model on the tokens of --w2v-path, a vq-wav2vec: fine-tune that (discrete BERT)",
        reads="model",
    )  # fmt: skip
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

    bert_args: Mapping[str, Any] | None = arg(
        None,
        help="the masked model's options as JSON; kept in checkpoints, normally read from --bert-path",
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

    def __init__(self, config: Wav2Vec2EncoderConfig, num_classes: int, final_dropout: float) -> None:
        super().__init__()
        self.final_dropout = final_dropout
        # No quantizer and no projection of targets: those of pretraining are dropped when its tensors are loaded.
        self.w2v_model = Wav2Vec2Encoder(config)
        self.proj = nn.Linear(config.encoder_embed_dim, num_classes)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, source: Tensor, lengths: Tensor | None, frames: Frames, masks: Masks, seed: int | None) -> Tensor:
        """Return scores (B, T, V); arguments as for `Wav2Vec2Encoder.encode`."""
        context = self.w2v_model(source, lengths, frames, masks, seed).context
        # (B, T, C) -> (B, T, V)
        logits: Tensor = self.proj(dropout(context, self.final_dropout, self.training))
        return logits


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
        self.shortest_clip = receptive_field(self.conv_layers)
        self.layers = layer_names(encoder_config)
        self.w2v_encoder = _CtcEncoder(encoder_config, num_classes, config.final_dropout)
        self._freezing = Freezing()
        self._freezing.until(config.freeze_finetune_updates, 0, self.w2v_encoder.w2v_model)

    @classmethod
    def build(cls, config: Wav2VecCtcConfig, **context: Any) -> W2vModel:
        """Build the model, or with `--bert-path` one that reads tokens (`discrete_bert`).

        Args:
            config: the options.
            context: `num_classes`, symbols V with the blank; `pretrained_config`, the options of a model that has
                such an encoder, pretrained or fine-tuned, or None to take them from `config.w2v_args`;
                `pretrained_state`, its tensors, or None for random weights; for a model that reads tokens also
                `pretrained_name`, and `bert_config`, `bert_symbols` and `bert_state` of the masked model.

        Raises:
            ConfigError: the symbols or the encoder's options are not known.
            CheckpointError: the tensors do not fit them.
        """
        if "num_classes" not in context:
            raise ConfigError("--arch wav2vec_ctc needs labels; give --labels, such as --labels ltr")
        if config.bert_path is not None or config.bert_args is not None:
            return DiscreteBertCtc.build(_with_token_models(config, context), **context)
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
            raise ConfigError(
                f"--w2v-path: the model there is no wav2vec 2.0 ({config.w2v_path} is of --arch "
                f"{context.get('pretrained_name')}); --arch wav2vec_ctc needs such an encoder"
            )
        # Into the checkpoint, so that the fine-tuned model needs no second file.
        config = dataclasses.replace(config, w2v_args={**_arch_of(pretrained_config), **to_plain(pretrained_config)})
        # Fine-tuning has its own dropout and masks; sizes stay those of pretraining.
        encoder_config = dataclasses.replace(pretrained_config, **config.encoder_overrides())
        model = cls(config, encoder_config, num_classes)
        if state is not None:
            load_encoder(model.w2v_encoder.w2v_model, state)
        return model

    def set_num_updates(self, num_updates: int) -> None:
        """Begin or end the freezing of the encoder, and pass on how many updates are done."""
        self.w2v_encoder.w2v_model.set_num_updates(num_updates)
        self._freezing.until(self.config.freeze_finetune_updates, num_updates, self.w2v_encoder.w2v_model)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        seed: int | None = None,
        *,
        mask_indices: Tensor | None = None,
        mask_channel_indices: Tensor | None = None,
    ) -> CtcOutput:
        """Return scores of symbols per frame; masks apply in training only, frozen or not.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU; None: no padding.
            seed: base of the masks; None: see `W2vModel`.
            mask_indices: (B, T) bool to use instead of drawing.
            mask_channel_indices: (B, C) bool to use instead of drawing.

        Returns:
            Scores without a frame where every clip is too short for one.
        """
        source, lengths = self.check_clips(source, lengths)
        seed = draw_seed(seed, training=self.training)
        encoder = self.w2v_encoder.w2v_model
        # From lengths alone, on the host; the CTC loss needs them there, too.
        frames = encoder.frames(source, lengths)
        masks = Masks()
        if self.training and self.config.apply_mask:
            masks = encoder.draw_masks(len(source), frames, seed)
        masks = masks.replaced(mask_indices, mask_channel_indices)
        logits = self.w2v_encoder(source, lengths, frames, masks, seed)
        if source.shape[1] < self.shortest_clip:
            logits = logits[:, :0]  # the convolutions made one frame that no clip owns
        # (B,) on the CPU: decoders and the loss read it without a wait.
        true_frames = torch.full((len(source),), frames.size) if frames.lengths is None else frames.lengths
        return CtcOutput(logits, true_frames)

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`, blocks by number, and `c`, the encoder's contexts."""
        encoder = self.w2v_encoder.w2v_model
        return layer_frames(encoder, encoder, source, lengths, names)


def _with_token_models(config: Wav2VecCtcConfig, context: Mapping[str, Any]) -> Wav2VecCtcConfig:
    """Return the options with those of quantizer and masked model, so that a checkpoint needs no other file."""
    quantizer, bert = context.get("pretrained_config"), context.get("bert_config")
    if quantizer is not None:
        named = {**to_plain(quantizer), "_name": context["pretrained_name"]}
        config = dataclasses.replace(config, w2v_args=named)
    if bert is not None:
        config = dataclasses.replace(config, bert_args=bert_options(bert, len(context["bert_symbols"])))
    if config.w2v_args is None or config.bert_args is None:
        raise ConfigError("--bert-path needs --w2v-path: the vq-wav2vec that makes its tokens")
    return config


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


def _arch_of(config: Wav2Vec2EncoderConfig) -> dict[str, str]:
    """Return which `--arch` has these options, as an entry of `w2v_args`; without one it is wav2vec 2.0."""
    if isinstance(config, MODELS.get("wav2vec2").config) or type(config) is Wav2Vec2EncoderConfig:
        return {}
    names = [name for name in MODELS.names() if MODELS.get(name).config is type(config)]
    return {"_name": names[0]} if names else {}


def _encoder_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors of a fine-tuned model, under the names of a pretrained one."""
    names = (name for name in state if name.startswith(ENCODER_PREFIX))
    return {name.removeprefix(ENCODER_PREFIX): state[name] for name in names}


def load_encoder(encoder: Wav2Vec2Encoder, state: Mapping[str, Tensor]) -> None:
    """Load the tensors of a pretrained model, without the heads that only pretraining uses.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; their names are listed.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith(PRETRAINING_HEADS)}
    load_pretrained(encoder, given, "--w2v-path")
