"""Options of the wav2vec 2.0 encoder, shared by pretraining and fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

from w2v.config import arg, check_range, float_triple
from w2v.errors import ConfigError
from w2v.functional.conv_spec import ConvLayer, conv_layers
from w2v.functional.masking import SELECTIONS, MaskSpec
from w2v.modules.conv_feature_extractor import EXTRACTOR_MODES
from w2v.modules.gumbel_vector_quantizer import GumbelVectorQuantizer
from w2v.modules.transformer_encoder import TransformerSpec
from w2v.modules.transformer_layer import ACTIVATIONS

DEFAULT_CONV_LAYERS = conv_layers("[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)]")


@dataclass(frozen=True)
class MaskOptions:
    """What pretraining and fine-tuning say alike of masks, dropout on features and memory.

    The shares of masked frames and channels have other defaults in each, and stand there.
    """

    mask_length: int = arg(10, help="mean length of masked spans, in frames")
    mask_selection: str = arg("static", help="distribution of the span length", choices=SELECTIONS)
    mask_other: float = arg(0.0, help="second parameter of that distribution: least length, or standard deviation")
    no_mask_overlap: bool = arg(False, help="keep masked spans apart")
    mask_channel_length: int = arg(10, help="mean length of masked spans of channels")
    mask_channel_selection: str = arg("static", help="distribution of the channel span length", choices=SELECTIONS)
    mask_channel_other: float = arg(0.0, help="second parameter of that distribution")
    no_mask_channel_overlap: bool = arg(False, help="keep masked spans of channels apart")
    dropout_input: float = arg(0.0, help="dropout on projected features, before masking")
    checkpoint_activations: bool = arg(
        False,
        help="compute convolutions and blocks again in the backward pass instead of storing them: less memory, "
        "a third more time",
    )
    original_padding: bool = arg(
        False, help="let padding count in norms and frame lengths, as the original of October 2020 did"
    )

    def __post_init__(self) -> None:
        check_range(self, 0, 1, "dropout_input")
        check_range(self, 1, math.inf, "mask_length", "mask_channel_length")
        check_range(self, 0, math.inf, "mask_other", "mask_channel_other")
        spans = (
            ("--mask", self.mask_selection, self.mask_length, self.mask_other),
            ("--mask-channel", self.mask_channel_selection, self.mask_channel_length, self.mask_channel_other),
        )
        for flag, selection, length, other in spans:
            # The least length of a uniform distribution with this mean would be negative.
            if selection == "uniform" and other > 2 * length:
                raise ConfigError(f"{flag}-other must be at most twice {flag}-length ({length}), got {other}")


@dataclass(frozen=True)
class Wav2Vec2EncoderConfig(MaskOptions):
    """Options of the encoder; the names and defaults are the original's."""

    extractor_mode: str = arg(
        "default",
        help="default: each channel is normalised over time after the first convolution; "
        "layer_norm: the channels of each frame after every convolution",
        choices=EXTRACTOR_MODES,
    )
    encoder_layers: int = arg(12, help="transformer blocks")
    encoder_embed_dim: int = arg(768, help="width of the transformer")
    encoder_ffn_embed_dim: int = arg(3072, help="width inside its feed-forward layers")
    encoder_attention_heads: int = arg(12, help="attention heads")
    activation_fn: str = arg("gelu", help="activation inside feed-forward layers", choices=tuple(ACTIVATIONS))
    dropout: float = arg(0.1, help="dropout after attention, after feed-forward, and on the transformer's input")
    attention_dropout: float = arg(0.1, help="dropout on attention weights")
    activation_dropout: float = arg(0.0, help="dropout inside feed-forward layers")
    layer_norm_first: bool = arg(False, help="pre-norm blocks, and a norm after the last one")
    encoder_layerdrop: float = arg(0.0, help="probability of skipping a block in an update")
    conv_feature_layers: tuple[ConvLayer, ...] = arg(
        DEFAULT_CONV_LAYERS,
        help="convolutions as a list of (channels, kernel, stride): '[(512, 10, 5)] + [(512, 3, 2)] * 4'",
        parse=conv_layers,
    )
    conv_bias: bool = arg(False, help="give the convolutions a bias")
    quantize_input: bool = arg(False, help="quantise what the transformer reads")
    same_quantizer: bool = arg(False, help="use one quantiser for input and targets")
    quantize_targets: bool = arg(False, help="quantise the targets of the contrastive loss")
    final_dim: int = arg(0, help="width of the space of the contrastive loss; 0: --encoder-embed-dim")
    latent_vars: int = arg(320, help="entries per group of the codebook")
    latent_groups: int = arg(2, help="groups of the codebook")
    latent_dim: int = arg(0, help="width of a quantised frame; 0: --final-dim")
    latent_temp: tuple[float, float, float] = arg(
        (2.0, 0.5, 0.999995),
        help="temperature of the Gumbel softmax: '(start, end, decay per update)'",
        parse=float_triple,
    )
    feature_grad_mult: float = arg(1.0, help="factor on gradients that enter the convolutions; 0: they do not train")
    mask_prob: float = arg(0.65, help="share of frames aimed at by masks, before overlaps; 0: no masks")
    mask_min_space: int = arg(1, help="least gap between spans under --no-mask-overlap")
    mask_channel_prob: float = arg(0.0, help="share of channels aimed at by channel masks; 0: none")
    mask_channel_min_space: int = arg(1, help="least gap between them under --no-mask-channel-overlap")
    conv_pos: int = arg(128, help="width of the positional convolution, in frames")
    conv_pos_groups: int = arg(16, help="groups of channels of the positional convolution")
    pos_conv_depth: int = arg(
        1, help="above 1: so many positional convolutions, one after the other, of conv_pos / depth frames (data2vec)"
    )
    adapter_attn_dim: int = arg(
        0, help="width of an adapter after each block, as models of many languages have them (MMS); 0: none"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(
            self, 0, 1, "dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "mask_prob",
            "mask_channel_prob",
        )  # fmt: skip
        check_range(
            self, 1, math.inf, "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim",
            "encoder_attention_heads", "latent_vars", "latent_groups", "conv_pos", "conv_pos_groups", "pos_conv_depth",
        )  # fmt: skip
        check_range(
            self, 0, math.inf, "final_dim", "latent_dim", "feature_grad_mult", "mask_min_space",
            "mask_channel_min_space", "adapter_attn_dim",
        )  # fmt: skip
        for divisor in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, divisor):
                flag = "--" + divisor.replace("_", "-")
                raise ConfigError(
                    f"{flag} must divide --encoder-embed-dim ({self.encoder_embed_dim}), got {getattr(self, divisor)}"
                )
        start, end, decay = self.latent_temp
        if not (0 < end <= start and 0 < decay <= 1):
            raise ConfigError(f"--latent-temp must hold start >= end > 0 and a decay in (0, 1], got {self.latent_temp}")

    @property
    def feature_dim(self) -> int:
        """Channels of the last convolution."""
        return self.conv_feature_layers[-1][0]

    @property
    def contrast_dim(self) -> int:
        """`--final-dim` with its default resolved."""
        return self.final_dim or self.encoder_embed_dim

    @property
    def time_mask(self) -> MaskSpec:
        """How frames are masked; at least two spans per clip, as in the original."""
        return MaskSpec(
            self.mask_prob, self.mask_length, self.mask_selection, self.mask_other,
            self.no_mask_overlap, self.mask_min_space, min_masks=2,
        )  # fmt: skip

    @property
    def channel_mask(self) -> MaskSpec:
        """How channels are masked."""
        return MaskSpec(
            self.mask_channel_prob, self.mask_channel_length, self.mask_channel_selection, self.mask_channel_other,
            self.no_mask_channel_overlap, self.mask_channel_min_space,
        )  # fmt: skip

    @property
    def transformer(self) -> TransformerSpec:
        """Sizes and rates of the transformer."""
        return TransformerSpec(
            layers=self.encoder_layers,
            embed_dim=self.encoder_embed_dim,
            ffn_embed_dim=self.encoder_ffn_embed_dim,
            attention_heads=self.encoder_attention_heads,
            activation_fn=self.activation_fn,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            layer_norm_first=self.layer_norm_first,
            layerdrop=self.encoder_layerdrop,
            conv_pos=self.conv_pos,
            conv_pos_groups=self.conv_pos_groups,
            pos_conv_depth=self.pos_conv_depth,
            adapter_attn_dim=self.adapter_attn_dim,
            checkpoint_activations=self.checkpoint_activations,
        )

    def quantizer(self, vq_dim: int) -> GumbelVectorQuantizer:
        """Build a quantiser of `vq_dim` wide frames, or `--latent-dim` if that is set.

        Raises:
            ConfigError: the groups do not divide the width.
        """
        vq_dim = self.latent_dim or vq_dim
        if vq_dim % self.latent_groups:
            raise ConfigError(f"--latent-groups must divide the quantised width {vq_dim}, got {self.latent_groups}")
        return GumbelVectorQuantizer(
            self.feature_dim,
            self.latent_vars,
            self.latent_temp,
            self.latent_groups,
            combine_groups=False,
            vq_dim=vq_dim,
        )
