"""What every model offers, and the registry that `--arch` names are looked up in."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from w2v.registry import Registry
from w2v.types import Features


class W2vModel(nn.Module):
    """Base class of models.

    `forward(source, lengths, seed)` returns a typed output (`ContrastiveOutput`, `CtcOutput`, ...). Every random
    draw in it follows from `seed`, save dropout, which uses torch's global generator.

    Attributes:
        reads: what its batches hold: `audio`, or `text` (then it is built for `num_words`, `pad`, `max_positions`).
        shortest_clip: samples of the shortest clip that training gets anything out of; shorter ones are left out.
        codebook: groups and codewords per group of the quantizer whose `code_perplexity` is logged; (0, 0) without one.
    """

    reads: str = "audio"
    shortest_clip: int = 1
    codebook: tuple[int, int] = (0, 0)

    @classmethod
    def build(cls, config: Any, **context: Any) -> W2vModel:
        """Build the model from its config and from what the task knows (`num_classes`, `pretrained`, ...)."""
        return cls(config, **context)

    def set_num_updates(self, num_updates: int) -> None:
        """Tell schedule-aware parts (Gumbel temperature, freezing, LayerDrop) how many updates are done."""

    def extract_features(self, source: Tensor, lengths: Tensor | None) -> Features:
        """Return frames of the encoder for (B, S) samples, without masking.

        Raises:
            NotImplementedError: the model has no audio encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} has no audio features")


MODELS: Registry[W2vModel] = Registry("model", "--arch", W2vModel)
register_model = MODELS.register
register_model_architecture = MODELS.preset
