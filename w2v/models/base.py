"""What every model offers, and the registry that `--arch` names are looked up in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from w2v.errors import ArgumentError, CheckpointError, ConfigError, listed
from w2v.functional.clips import check_clips
from w2v.functional.conv_spec import ConvLayer, receptive_field
from w2v.registry import Registry
from w2v.types import Features

CONTEXT = "c"
"""The layer that every audio model has: its last frames."""


class W2vModel(nn.Module):
    """Base class of models.

    `forward(source, lengths, seed)` returns a typed output (`ContrastiveOutput`, `CtcOutput`, ...). Every random
    draw in it follows from `seed`, save dropout, which uses torch's global generator, and LayerDrop
    (`modules.transformer_layer.BlockStack`). Without a seed, training draws one from torch's global generator at each
    call; evaluation takes 0.

    A subclass for audio defines `layer_frames`; then `extract_features` works, and with it every program over clips.
    Where it has a codebook it defines `codes_of`, too.

    Attributes:
        reads: what its batches hold: `audio`, `text` or `masked text` (then it is built for `num_words`, `pad`,
            `max_positions`).
        shortest_clip: samples of the shortest clip that training gets anything out of; shorter ones are left out.
        codebook_size: groups and codewords per group of its quantizer, (0, 0) without one.
        conv_layers: the convolutions that turn samples into frames; by default `config.conv_feature_layers`, and ()
            where a model has none: then nothing is known of its frames before they are computed.
        layers: names of the frames that `extract_features` gives; by default `c` alone.
    """

    reads: str = "audio"
    shortest_clip: int = 1
    codebook_size: tuple[int, int] = (0, 0)
    conv_layers: tuple[ConvLayer, ...]
    layers: tuple[str, ...]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Defaults that are looked up last: as attributes of the class they would hide submodules of these
            # names, which models from outside may have.
            if name == "layers" and name not in self._modules:
                return (CONTEXT,)
            if name == "conv_layers" and name not in self._modules:
                return getattr(getattr(self, "config", None), "conv_feature_layers", ())
            return super().__getattr__(name)

    @classmethod
    def build(cls, config: Any, **context: Any) -> W2vModel:
        """Build the model from its config and from what the task knows (`num_classes`, `pretrained`, ...)."""
        return cls(config, **context)

    def set_num_updates(self, num_updates: int) -> None:
        """Tell schedule-aware parts (Gumbel temperature, freezing, LayerDrop) how many updates are done."""

    def extract_features(
        self,
        source: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        layer: str | int = CONTEXT,
        layers: Iterable[str | int] = (),
        with_layers: bool = False,
    ) -> Features:
        """Return frames of clips, without masks and without noise; the same call for every model.

        Samples must be as in training: at the model's rate, one channel, normalised where the model's task says so
        (`w2v.features` does all of this). Gradients flow, in evaluation mode, too: wrap the call in
        `torch.no_grad()` where they are not wanted. In training mode dropout and LayerDrop are at work.

        Args:
            source: (B, S) samples, in float32 or the dtype of the model.
            lengths: (B,) true samples per clip, where clips are padded on the right. Frames of a clip do not depend on
                what stands beside it.
            layer: the frames in `features`, one of `self.layers`; blocks of a transformer may be given as numbers.
            layers: the frames in `layers`, in this order; `model.layers` for all.
            with_layers: all blocks of the transformer in `layers`, where none are named.

        Returns:
            Frames, and how many of them are true ones: none of a clip that is too short. A batch in which every clip is
            too short has zero frames.

        Raises:
            ArgumentError: an argument is not of this form, or the model has no such layer.
            NotImplementedError: the model has no audio encoder.
        """
        further = [str(name) for name in layers] or [n for n in self.layers if with_layers and n.isdecimal()]
        layer = str(layer)
        for name in (layer, *further):
            if name not in self.layers:
                raise ArgumentError(f"layer must be {layer_choice(self)} for this model, got {name!r}")
        # From here on: float samples in the dtype of the weights, int64 lengths on the CPU or None.
        source, lengths = self.check_clips(source, lengths)
        found, frames = self.layer_frames(source, lengths, {layer, *further})
        # A model may leave out lengths where all clips are full; who gave some gets some.
        if lengths is not None and frames is None:
            frames = torch.full((len(source),), found[layer].shape[1])
        if source.shape[1] < receptive_field(self.conv_layers):
            # The convolutions made one frame that no clip owns.
            found = {name: part[:, :0] for name, part in found.items()}
        return Features(found[layer], frames, [found[name] for name in further])

    def layer_frames(
        self, source: Tensor, lengths: Tensor | None, names: set[str]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Compute frames; `extract_features` checks what it is given and what it returns.

        Args:
            source: (B, S) samples.
            lengths: (B,) int64 true samples per clip, CPU, or None.
            names: which of `self.layers` are wanted.

        Returns:
            (B, T, C) by name, and (B,) int64 true frames per clip on the CPU, or None where every clip fills the batch.

        Raises:
            NotImplementedError: the model has no audio encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} has no audio features")

    def extract_codes(self, source: Tensor, lengths: Tensor | Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the codes of clips: (B, T, G) int64 in [0, V), and (B,) true frames per clip, on the CPU.

        Args:
            source: (B, S) samples, as for `extract_features`.
            lengths: (B,) true samples per clip, or None.

        Raises:
            ConfigError: the model has no quantizer.
            ArgumentError: an argument is not of this form.
        """
        if self.codebook_size == (0, 0):
            raise ConfigError(
                "the model has no quantizer: tokens need --vq-type gumbel or kmeans, or --quantize-targets"
            )
        source, lengths = self.check_clips(source, lengths)
        codes, frames = self.codes_of(source, lengths)
        if source.shape[1] < receptive_field(self.conv_layers):
            codes = codes[:, :0]
        return codes, torch.full((len(source),), codes.shape[1]) if frames is None else frames

    def codes_of(self, source: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute codes (B, T, G), and true frames as `layer_frames` does; `extract_codes` checks arguments.

        Raises:
            NotImplementedError: the model does not say how.
        """
        raise NotImplementedError(f"{type(self).__name__} has a codebook, but no codes_of")

    def check_clips(self, source: Tensor, lengths: Tensor | Sequence[int] | None) -> tuple[Tensor, Tensor | None]:
        """Return what a model is given in the form that it computes with: `source` in the dtype of its weights.

        Raises:
            ArgumentError: an argument is not of the form that `extract_features` names.
        """
        source, lengths = check_clips(source, lengths, self.conv_layers)
        weight = next(self.parameters(), source)
        # Autocast chooses formats by itself.
        device = source.device.type
        is_mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return source if is_mixed else source.to(weight.dtype), lengths


def layer_choice(model: W2vModel) -> str:
    """Return the layers of a model for a message: `z, c or a number from 1 to 12`."""
    names = [name for name in model.layers if not name.isdecimal()]
    blocks = [name for name in model.layers if name.isdecimal()]
    choices = [*names, *([f"a number from {blocks[0]} to {blocks[-1]}"] if blocks else [])]
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def load_pretrained(module: nn.Module, state: Mapping[str, Tensor], flag: str) -> None:
    """Load tensors that must be those of `module`, all of them and no others.

    Args:
        module: the part of a model that was trained before.
        state: its tensors.
        flag: what named them, for the message.

    Raises:
        CheckpointError: tensors are missing, unknown, or of another shape; their names are listed.
    """
    wanted = module.state_dict()
    problems = [
        ("it lacks", sorted(wanted.keys() - state.keys())),
        ("it holds unknown", sorted(state.keys() - wanted.keys())),
        ("of another shape:", sorted(of_another_shape(wanted, state))),
    ]
    found = [f"{what} {listed(names)}" for what, names in problems if names]
    if found:
        raise CheckpointError(f"{flag}: the pretrained tensors do not fit their options: {'; '.join(found)}")
    module.load_state_dict(state)


def of_another_shape(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that have one shape in a model and another one in a file, in the model's order."""
    return [name for name, tensor in wanted.items() if name in state and state[name].shape != tensor.shape]


def draw_seed(seed: int | None, *, training: bool) -> int:
    """Return what the draws of a forward pass follow from: `seed`, or a draw from torch's global generator.

    Differs from leaving it constant: masks and negatives of a training loop would be the same at every step.
    """
    if seed is not None:
        return seed
    # On the CPU, so that a GPU is not waited for.
    return int(torch.randint(2**62, ())) if training else 0


MODELS: Registry[W2vModel] = Registry("model", "--arch", W2vModel)
register_model = MODELS.register
register_model_architecture = MODELS.preset
