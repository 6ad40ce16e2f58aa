"""Penalties of a model beside its main loss (wav2vec 2.0, section 3.2; `--loss-weights`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from w2v.errors import ConfigError


def weighted_penalties(
    weights: tuple[float, ...] | None, penalties: Mapping[str, Tensor], sample_size: int
) -> list[Tensor]:
    """Return the penalties that count, weighted, as sums over `sample_size` terms.

    Args:
        weights: `--loss-weights`, one for all penalties or one for each; None: no penalty counts, as in the original.
        penalties: scalars by name.
        sample_size: terms of the main loss, each of which a penalty stands beside.

    Raises:
        ConfigError: the numbers of weights and penalties differ.
    """
    if weights is None:
        return []
    if len(weights) == 1:
        weights = weights * len(penalties)
    if len(weights) != len(penalties):
        raise ConfigError(
            f"--loss-weights must hold {'1' if len(penalties) == 1 else f'1 or {len(penalties)}'} numbers "
            f"(for {', '.join(penalties) or 'no penalty'}), "
            f"got {list(weights)}"
        )
    return [
        weight * penalty.float() * sample_size
        for weight, penalty in zip(weights, penalties.values(), strict=True)
        if weight != 0
    ]
