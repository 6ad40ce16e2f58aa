"""How many batches make an update where its size is given in audio time (`--batch-audio`).

The published papers state sizes so: 1.6 hours are 64 batches of `--max-tokens 1400000`, on however many GPUs.
"""

from __future__ import annotations

import math
import re
from typing import Any

from w2v.errors import ConfigError

SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
COMMON_RANKS = 4  # runs on 1, 2 and 4 ranks are to make the same updates


def audio_seconds(value: Any) -> float:
    """Parse `1.6h`, `96m`, `5760s` or a number of seconds."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([hms]?)\s*", str(value))
    if isinstance(value, bool) or found is None or not float(found[1]):
        raise ValueError(f"must be a time such as 1.6h, 96m or 5760s, got {value!r}")
    return float(found[1]) * SECONDS[found[2]]


def batches_per_update(samples: float, max_tokens: int, world_size: int) -> int:
    """Return how many batches, over all ranks, come nearest to `samples`.

    A batch counts as full. The number is rounded to a multiple of 4 (of 2 or 1 where fewer than 4 or 2 would do), or
    of `world_size` where that does not divide it; so it is the same on 1, 2 and 4 ranks, and so are the updates.

    Args:
        samples: wanted size of an update.
        max_tokens: most samples of a batch.
        world_size: number of ranks.

    Raises:
        ConfigError: `samples` do not suffice for one batch on every rank.
    """
    wanted = samples / max_tokens
    if wanted < world_size:
        raise ConfigError(
            f"--batch-audio must be at least one batch for each of {world_size} ranks, got {samples:.0f} samples for "
            f"batches of --max-tokens {max_tokens}; lower --max-tokens to {int(samples / world_size)}"
        )
    unit = next(unit for unit in (COMMON_RANKS, COMMON_RANKS // 2, 1) if wanted >= unit)
    if unit % world_size:
        unit = world_size
    return max(1, math.floor(wanted / unit + 0.5)) * unit
