"""Options that do not fit the tensors beside them, found before anything is built by them.

A configuration of a thousand million layers would keep a program busy for hours before the first tensor is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from w2v.errors import CheckpointError

COUNTS = ("encoder_layers", "vq_depth", "conv_feature_layers", "conv_aggregator_layers", "decoder_layers")
WIDTHS = (
    *("encoder_embed_dim", "encoder_ffn_embed_dim", "conv_pos"),
    *("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_input_dim", "decoder_output_dim"),
)
FREE_LIMIT = 2**20
"""Largest value of other whole numbers that tensors are made by."""
FREE = (
    "latent_vars",
    "latent_groups",
    "latent_dim",
    "final_dim",
    "vq_vars",
    "vq_groups",
    "vq_dim",
    "gru_dim",
    "prediction_steps",
)


def check_plausible(where: str, model: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Check that no option asks for more layers than there are tensors, or wider ones.

    Raises:
        CheckpointError: naming the option.
    """
    widest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for values in (model, model.get("w2v_args")):
        if not isinstance(values, Mapping):
            continue
        for names, limit in ((COUNTS, len(state)), (WIDTHS, widest), (FREE, FREE_LIMIT)):
            for name in names:
                value = values.get(name)
                number = len(value) if isinstance(value, (list, tuple)) else value
                if isinstance(number, (int, float)) and number > limit:
                    raise CheckpointError(f"{where}: {name} = {str(value)[:20]} does not fit the tensors beside it")
