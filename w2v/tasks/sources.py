"""Several training sets in one run (`--train-subset a,b`): how much each counts, and its own loss.

The sets are joined before batches are made, so a batch mixes them. With weights w_i, losses l_i and sizes m_i of its
clips, the gradient is that of sum w_i l_i / sum w_i m_i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor

from w2v.errors import ConfigError
from w2v.types import IntArray, Loss

LOSS, SIZE, CLIPS = "source_loss/", "source_size/", "source_clips/"  # sums that a log line is made of


@dataclass(frozen=True)
class Sources:
    """Which set each clip of a joined one comes from.

    Attributes:
        names: of the sets, as log lines have them.
        weights: of the sets.
        ends: (number of sets,) lines up to the end of each set, in the joined manifest.
        rows: (N,) line of each clip in the joined manifest, from 0.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    ends: IntArray
    rows: IntArray

    def weigh(self, loss: Loss, indices: Tensor) -> Loss:
        """Return the loss of a batch with its clips weighed, and with the sums of each set.

        Args:
            loss: of the batch.
            indices: (B,) numbers of its clips in the joined set; CPU.

        Raises:
            ConfigError: weights differ, and the criterion tells no losses of single clips.
        """
        equal = all(weight == 1 for weight in self.weights)
        if loss.by_clip is None:
            if equal:
                return loss
            raise ConfigError(
                "--subset-weights needs a loss for each clip, as --criterion ctc has; with this one only 1 (the set is "
                "used) and 0 (it is left out) are possible"
            )
        clips = loss.by_clip
        place = torch.from_numpy(np.searchsorted(self.ends, self.rows[indices.numpy()], side="right"))
        device = clips.losses.device
        by_set = [
            torch.zeros(len(self.names), dtype=values.dtype, device=values.device).index_add_(
                0, place.to(values.device), values
            )
            for values in (clips.losses.detach(), clips.sizes, torch.ones(len(indices)))
        ]
        sums = dict(loss.sums)
        for kind, totals in zip((LOSS, SIZE, CLIPS), by_set, strict=True):
            sums |= {kind + name: total for name, total in zip(self.names, totals.unbind(), strict=True)}
        if equal:
            return replace(loss, sums=sums)
        weights = torch.tensor(self.weights, dtype=torch.float64)[place]  # (B,), CPU: sizes are known on the host
        value = (clips.losses * weights.to(device, clips.losses.dtype)).sum()
        counts = {name: float((weights * values).sum()) for name, values in clips.sums.items()}
        return Loss(value, float((weights * clips.sizes).sum()), {**sums, **counts})


def short_names(splits: list[str]) -> tuple[str, ...]:
    """Return what log lines call training sets: their file names, or where two are equal, all of their paths."""
    names = tuple(PurePath(split).name for split in splits)
    return names if len(set(names)) == len(names) else tuple(splits)


def source_values(sums: Mapping[str, float]) -> dict[str, float]:
    """Return what a log line says of each training set: its loss without its weight, in bits, and its clips."""
    values = {}
    for key in sums:
        if key.startswith(LOSS):
            name = key.removeprefix(LOSS)
            values[f"loss_{name}"] = sums[key] / max(sums[SIZE + name], 1) / math.log(2)
            values[f"clips_{name}"] = sums[CLIPS + name]
    return values
