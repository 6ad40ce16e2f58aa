"""wav2vec and vq-wav2vec: predict future latent frames of speech from their past.

Schneider et al. 2019 (wav2vec) and Baevski et al. 2019 (vq-wav2vec). Convolutions turn samples into latent frames
z; z may be quantised; a causal aggregator turns z into the context c; step by step, c picks the true future z out
of negatives. The loss lives in `criterions/wav2vec_criterion`, shared with wav2vec 2.0.
"""

from __future__ import annotations

import dataclasses
import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2v.config import arg, build_config, check_range, float_triple
from w2v.errors import ConfigError
from w2v.functional.conv_spec import ConvLayer, conv_layers, frame_lengths, receptive_field, total_stride
from w2v.functional.dropout import Dropout
from w2v.functional.future_prediction import sample_future_negatives
from w2v.models.base import CONTEXT, MODELS, W2vModel, draw_seed, register_model, register_model_architecture
from w2v.modules.autograd import with_zero_grads
from w2v.modules.chunking import chunked
from w2v.modules.conv_aggregator import ConvAggregator, GruAggregator
from w2v.modules.conv_encoder import ConvEncoder
from w2v.modules.future_predictor import FuturePredictor
from w2v.modules.kmeans_vector_quantizer import KmeansQuantized, KmeansVectorQuantizer
from w2v.modules.latent_gumbel_quantizer import LatentGumbelQuantizer
from w2v.modules.norms import ACTIVATIONS
from w2v.rng import torch_generator
from w2v.types import ContrastiveOutput

PAPER_ENCODER = "[(512, 10, 5)] + [(512, 8, 4)] + [(512, 4, 2)] * 3"
PAPER_AGGREGATOR = "[(512, 3, 1)] * 9"


@dataclass(frozen=True)
class Wav2VecConfig:
    """Options of `--arch wav2vec`; names and defaults are the original's of October 2020."""

    prediction_steps: int = arg(12, help="future frames predicted from each context frame")
    sample_distance: int | None = arg(
        None, help="draw negatives from this many first frames of the clip (default: from all of its frames)"
    )
    cross_sample_negatives: int = arg(0, help="negatives per target drawn from all clips of the batch")
    num_negatives: int = arg(1, help="negatives per target drawn from its own clip")
    conv_feature_layers: tuple[ConvLayer, ...] = arg(
        conv_layers(PAPER_ENCODER),
        help="convolutions of the encoder: '[(width, kernel, stride), ...]', where + joins lists and * repeats them",
        parse=conv_layers,
    )
    conv_aggregator_layers: tuple[ConvLayer, ...] = arg(
        conv_layers(PAPER_AGGREGATOR),
        help="causal convolutions of the aggregator: a list of (width, kernel, 1)",
        parse=conv_layers,
    )
    dropout: float = arg(0.0, help="dropout inside the aggregator and on the projections")
    dropout_features: float = arg(0.0, help="dropout on the latent frames before the aggregator")
    dropout_agg: float = arg(0.0, help="dropout on the context")
    encoder: str = arg("cnn", help="kind of encoder", choices=("cnn",))
    aggregator: str = arg("cnn", help="kind of aggregator", choices=("cnn", "gru"))
    gru_dim: int = arg(512, help="width of --aggregator gru")
    no_conv_bias: bool = arg(False, help="convolutions of the aggregator have no bias (those of the encoder never do)")
    agg_zero_pad: bool = arg(False, help="pad the aggregator's input on the left with zeros, not with its first frame")
    skip_connections_feat: bool = arg(False, help="skip connections in the encoder, where widths agree")
    skip_connections_agg: bool = arg(False, help="skip connections in the aggregator")
    residual_scale: float = arg(0.5, help="the sum of a skip connection is multiplied by the square root of this")
    log_compression: bool = arg(False, help="latent frames are log(1 + |z|)")
    balanced_classes: bool = arg(
        False, help="in the binary loss, the negatives of a target weigh as much as its positive (1 / --num-negatives)"
    )
    project_features: str = arg(
        "none",
        help="targets are latent frames (none) or an aggregation of them: by the context's aggregator (same) or by "
        "another one (new)",
        choices=("none", "same", "new"),
    )
    non_affine_group_norm: bool = arg(False, help="group norms have neither gain nor bias")
    offset: str = arg(
        "auto", help="frames between a context frame and its first target; auto: no samples in common (3 in the recipe)"
    )
    activation: str = arg("relu", help="activation after each convolution", choices=tuple(sorted(ACTIVATIONS)))
    vq_type: str = arg("none", help="quantizer of the latent frames", choices=("none", "gumbel", "kmeans"))
    vq_vars: int = arg(320, help="codewords per group")
    vq_groups: int = arg(2, help="groups that a frame is divided into")
    vq_dim: int = arg(0, help="width of a quantised frame; 0: that of the encoder")
    vq_depth: int = arg(1, help="layers that compute the logits of --vq-type gumbel")
    combine_groups: bool = arg(False, help="all groups share one codebook")
    vq_temp: tuple[float, float, float] = arg(
        (2.0, 0.5, 0.999995),
        help="temperature of --vq-type gumbel: '(start, end, factor per update)'",
        parse=float_triple,
    )
    vq_gamma: float = arg(0.25, help="weight of the commitment term in the loss of --vq-type kmeans")

    def __post_init__(self) -> None:
        check_range(
            self, 1, math.inf, "prediction_steps", "sample_distance", "gru_dim", "vq_vars", "vq_groups", "vq_depth"
        )
        check_range(
            self, 0, math.inf, "num_negatives", "cross_sample_negatives", "residual_scale", "vq_dim", "vq_gamma"
        )
        check_range(self, 0, 1, "dropout", "dropout_features", "dropout_agg")
        if self.num_negatives + self.cross_sample_negatives < 1:
            raise ConfigError("--num-negatives and --cross-sample-negatives must not both be 0")
        if self.offset != "auto" and not (self.offset.isdecimal() and int(self.offset) >= 1):
            raise ConfigError(f"--offset must be auto or a whole number of at least 1, got {self.offset!r}")
        if self.aggregator == "cnn" and any(stride != 1 for _, _, stride in self.conv_aggregator_layers):
            raise ConfigError(
                f"--conv-aggregator-layers: strides must be 1, got {list(map(list, self.conv_aggregator_layers))}"
            )
        if self.project_features != "none" and self.context_dim != self.target_dim:
            raise ConfigError(
                f"--project-features {self.project_features} needs an aggregator as wide as the encoder, "
                f"got {self.context_dim} and {self.target_dim}"
            )
        self._check_quantizer()

    def _check_quantizer(self) -> None:
        if self.vq_type == "none":
            return
        if self.target_dim % self.vq_groups:
            raise ConfigError(f"--vq-groups must divide the width {self.target_dim} of a frame, got {self.vq_groups}")
        if self.vq_type == "kmeans" and self.target_dim != self.latent_dim:
            raise ConfigError(
                f"--vq-dim must be 0 or the encoder's width {self.latent_dim} with --vq-type kmeans, got {self.vq_dim}"
            )

    @property
    def latent_dim(self) -> int:
        """Channels of the encoder's frames."""
        return self.conv_feature_layers[-1][0]

    @property
    def target_dim(self) -> int:
        """Channels of the frames that the aggregator reads and the predictor aims at."""
        return self.vq_dim if self.vq_type != "none" and self.vq_dim else self.latent_dim

    @property
    def context_dim(self) -> int:
        """Channels of the context."""
        return self.gru_dim if self.aggregator == "gru" else self.conv_aggregator_layers[-1][0]

    @property
    def offset_frames(self) -> int:
        """`--offset` as a number: `auto` keeps the samples of the first target out of sight of the context."""
        if self.offset != "auto":
            return int(self.offset)
        return -(-receptive_field(self.conv_feature_layers) // total_stride(self.conv_feature_layers))


@register_model("wav2vec", Wav2VecConfig)
class Wav2VecModel(W2vModel):
    """wav2vec, and vq-wav2vec where `--vq-type` is given.

    Parts, under the original's names: `feature_extractor` (samples to latent frames z), `vector_quantizer` (None
    without `--vq-type`), `feature_aggregator` (z to context c), `project_features`, `wav2vec_predictions`.
    """

    def __init__(self, config: Wav2VecConfig) -> None:
        super().__init__()
        self.config = config
        # The first prediction is that of frame `offset` from frame 0.
        step = total_stride(config.conv_feature_layers)
        self.shortest_clip = receptive_field(config.conv_feature_layers) + config.offset_frames * step
        affine = not config.non_affine_group_norm
        self.feature_extractor = ConvEncoder(
            config.conv_feature_layers,
            log_compression=config.log_compression,
            skip_connections=config.skip_connections_feat,
            residual_scale=config.residual_scale,
            affine=affine,
            activation=config.activation,
        )
        self.vector_quantizer = _quantizer(config)
        self.layers = ("z", CONTEXT)
        if self.vector_quantizer is not None:
            self.codebook_size = (config.vq_groups, config.vq_vars)
            self.layers = ("z", "q", CONTEXT)
        self.feature_aggregator = _aggregator(config)
        self.wav2vec_predictions = FuturePredictor(
            config.context_dim, config.target_dim, config.prediction_steps, config.offset_frames, config.dropout
        )
        # Without parameters of their own: no key in a checkpoint.
        self.dropout_feats = Dropout(config.dropout_features)
        self.dropout_agg = Dropout(config.dropout_agg)
        self.project_features: nn.Module | None = None
        if config.project_features != "none":
            self.project_features = (
                self.feature_aggregator if config.project_features == "same" else _aggregator(config)
            )

    @classmethod
    def build_model(cls, args: Namespace | Mapping[str, Any], task: Any = None) -> Wav2VecModel:
        """Build the model from the options in an original checkpoint: `cp["args"]`, or `cp["cfg"]["model"]`.

        As in the original it is in training mode; call `eval()` before taking features.

        Args:
            args: options; those of other components are ignored, missing ones take their defaults.
            task: not used; it stands here so that the original's calls work unchanged.

        Raises:
            ConfigError: these are the options of another kind of model.
        """
        values = args if isinstance(args, Mapping) else vars(args)
        # `None` stands for 'not given' in the original's namespaces, so such options keep their defaults.
        names = [item.name for item in dataclasses.fields(Wav2VecConfig)]
        _refuse_another_kind(values)
        known = {name: values[name] for name in names if values.get(name) is not None}
        return cls(build_config(Wav2VecConfig, known, "model options"))

    def set_num_updates(self, num_updates: int) -> None:
        """Cool the Gumbel quantizer down to the temperature of this update."""
        if isinstance(self.vector_quantizer, LatentGumbelQuantizer):
            self.vector_quantizer.set_num_updates(num_updates)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        seed: int | None = None,
        *,
        negative_indices: Tensor | None = None,
        gumbel_noise: Tensor | None = None,
    ) -> ContrastiveOutput:
        """Predict the future of every frame.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, on the CPU; None where no clip is padded.
            seed: what negatives and Gumbel noise follow from; None: see `W2vModel`.
            negative_indices: (B, T, K) flat positions `clip * T + frame` to use instead of drawing.
            gumbel_noise: (N * G, V) samples for the N true frames, to use instead of drawing.

        Returns:
            One row of logits per (clip, target frame, step). Penalties: `diversity`, the sum over groups of V minus
            the perplexity (not divided by G x V, other than in wav2vec 2.0), or `kmeans_loss`.
        """
        source, lengths = self.check_clips(source, lengths)
        seed = draw_seed(seed, training=self.training)
        latent = chunked(self.feature_extractor, source, lengths)  # (B, C, T)
        frames = self._frames(source, lengths)
        # Penalties keep their order: --loss-weights weighs them by place.
        penalties: dict[str, Tensor] = {}
        stats: dict[str, Tensor | float] = {}
        if isinstance(self.vector_quantizer, LatentGumbelQuantizer):
            noise_source = torch_generator(source.device, seed, "gumbel noise")
            gumbel = self.vector_quantizer.quantize(latent, frames, noise=gumbel_noise, generator=noise_source)
            # (B, C, T) -> (B, D, T), D = --vq-dim or C; zero where padded
            latent = gumbel.x
            penalties["diversity"] = self.vector_quantizer.num_vars - gumbel.prob_perplexity
            stats["prob_perplexity"] = gumbel.prob_perplexity
            stats["code_perplexity"] = gumbel.code_perplexity
            stats["num_vars"] = self.vector_quantizer.num_vars
            stats["temp"] = self.vector_quantizer.current_temperature
        elif isinstance(self.vector_quantizer, KmeansVectorQuantizer):
            kmeans = self.vector_quantizer(latent, frames)
            # (B, C, T), the nearest codeword of each group; its gradient passes straight to the encoder
            latent = kmeans.x
            penalties["kmeans_loss"] = kmeans.kmeans_loss
            stats["code_perplexity"] = kmeans.code_perplexity
            stats["num_vars"] = self.vector_quantizer.num_vars
            stats["kmeans_loss"] = kmeans.kmeans_loss
        # (B, D, T) -> (B, C', T); causal: frame t knows frames up to t
        context = self.dropout_agg(chunked(self.feature_aggregator, self.dropout_feats(latent), frames))
        targets = latent if self.project_features is None else chunked(self.project_features, latent, frames)
        if negative_indices is None:
            negative_indices = self._draw_negatives(frames, latent.shape[2], source.device, seed)
        # (N, 1 + K): one row for each pair of a context frame and a step whose target exists
        logits = self.wav2vec_predictions(context, targets, negative_indices, frames)
        if logits.shape[0] == 0:  # all clips are too short for a prediction: the step must still have gradients
            logits = with_zero_grads(logits, self.parameters())
        return ContrastiveOutput(logits, penalties, stats, self._negative_weight())

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute `z`: frames of the encoder; `q`: their quantised form; `c`: the context, of `q` where there is one.

        Frames are quantised without noise, with the gradient of training (straight-through).
        """
        frames = None if lengths is None else self._frames(source, lengths)
        latent = self.feature_extractor(source, lengths)  # (B, C, T)
        found = {"z": latent}
        if names & {"q", CONTEXT}:
            found["q"] = latent = self._quantized(latent, frames)[0]
        if CONTEXT in names:
            found[CONTEXT] = self.feature_aggregator(latent, frames)
        # (B, C, T) -> (B, T, C)
        return {name: part.transpose(1, 2) for name, part in found.items()}, frames

    def codes_of(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the codes of the latent frames."""
        frames = None if lengths is None else self._frames(source, lengths)
        codes = self._quantized(self.feature_extractor(source, lengths), frames)[1]
        assert codes is not None  # `extract_codes` has asked whether there is a quantizer
        return codes, frames

    def _quantized(self, latent: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (B, C, T) frames as the aggregator reads them, and (B, T, G) codes where there is a quantizer."""
        if isinstance(self.vector_quantizer, KmeansVectorQuantizer):
            quantized: KmeansQuantized = self.vector_quantizer(latent, frames)
            return quantized.x, quantized.codes
        return (latent, None) if self.vector_quantizer is None else self.vector_quantizer.forward_idx(latent)

    def _frames(self, source: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the true frames per clip, on the CPU; 0 for a clip that is too short for one."""
        if lengths is None:
            lengths = torch.full((source.shape[0],), source.shape[1])
        return frame_lengths(lengths, self.config.conv_feature_layers)

    def _draw_negatives(self, frames: Tensor, num_frames: int, device: torch.device, seed: int) -> Tensor:
        config = self.config
        return sample_future_negatives(
            frames,
            num_frames,
            config.num_negatives,
            config.cross_sample_negatives,
            config.sample_distance,
            generator=torch_generator(device, seed, "negatives"),
        )

    def _negative_weight(self) -> float:
        """Weigh by the negatives of the clip alone, as the original does: cross-sample ones are not counted."""
        if self.config.balanced_classes and self.config.num_negatives > 0:
            return 1 / self.config.num_negatives
        return 1.0


def _refuse_another_kind(values: Mapping[str, Any]) -> None:
    """Refuse options that say, by their `arch` or by what they hold, that they are not wav2vec's.

    Raises:
        ConfigError: they do.
    """
    name = values.get("_name") or values.get("arch")
    if name in MODELS.names():
        is_ours = issubclass(MODELS.get(name).cls, Wav2VecModel)
    else:  # an architecture of the original's plugins, or options without a name
        is_ours = "conv_aggregator_layers" in values or not values.keys() & {"encoder_layers", "w2v_path", "w2v_args"}
    if not is_ours:
        raise ConfigError(
            f"these are the options of --arch {name or 'wav2vec2 or wav2vec_ctc'}, not of wav2vec; "
            "w2v.load_model(path) opens every checkpoint"
        )


def _aggregator(config: Wav2VecConfig) -> ConvAggregator | GruAggregator:
    if config.aggregator == "gru":
        return GruAggregator(config.target_dim, config.gru_dim)
    return ConvAggregator(
        config.conv_aggregator_layers,
        config.target_dim,
        dropout=config.dropout,
        skip_connections=config.skip_connections_agg,
        residual_scale=config.residual_scale,
        affine=not config.non_affine_group_norm,
        conv_bias=not config.no_conv_bias,
        zero_pad=config.agg_zero_pad,
        activation=config.activation,
    )


def _quantizer(config: Wav2VecConfig) -> LatentGumbelQuantizer | KmeansVectorQuantizer | None:
    if config.vq_type == "gumbel":
        return LatentGumbelQuantizer(
            config.latent_dim,
            config.vq_vars,
            config.vq_temp,
            config.vq_groups,
            combine_groups=config.combine_groups,
            vq_dim=config.target_dim,
            weight_proj_depth=config.vq_depth,
            activation=ACTIVATIONS[config.activation](),
        )
    if config.vq_type == "kmeans":
        return KmeansVectorQuantizer(
            config.latent_dim,
            config.vq_vars,
            config.vq_groups,
            combine_groups=config.combine_groups,
            gamma=config.vq_gamma,
        )
    return None


@register_model_architecture("wav2vec", "wav2vec_small")
def wav2vec_small() -> dict[str, Any]:
    """The base model of the paper: a 5-layer encoder, a 9-layer causal context network, ten negatives."""
    return {
        "conv_feature_layers": conv_layers(PAPER_ENCODER),
        "conv_aggregator_layers": conv_layers(PAPER_AGGREGATOR),
        "prediction_steps": 12,
        "num_negatives": 10,
    }


@register_model_architecture("wav2vec", "wav2vec_large")
def wav2vec_large() -> dict[str, Any]:
    """The model of the original README's wav2vec command ("wav2vec large" in the paper)."""
    return {
        "conv_feature_layers": conv_layers("[(512, 10, 5), (512, 8, 4)] + [(512, 4, 2)] * 3 + [(512, 1, 1)] * 2"),
        "conv_aggregator_layers": tuple((512, kernel, 1) for kernel in range(2, 14)),
        "skip_connections_agg": True,
        "residual_scale": 0.5,
        "log_compression": True,
        "num_negatives": 10,
    }
