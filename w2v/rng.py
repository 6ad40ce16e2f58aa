"""Random generators that follow from a tuple of keys, and from nothing else.

No code in `w2v` draws from a global generator, save torch's dropout, whose global seed is set before every
micro-batch. Masks, negatives, crops and noise follow from (seed, epoch, batch number), so a run resumes
exactly, on any number of workers and ranks, and a single batch can be replayed.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Key = int | str


def seed_from(*keys: Key) -> int:
    """Return a seed in [0, 2**63) that depends on all `keys` and their order."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_generator(*keys: Key) -> np.random.Generator:
    """Return a numpy generator seeded from `keys`."""
    return np.random.Generator(np.random.PCG64(seed_from(*keys)))


def torch_generator(device: torch.device | str, *keys: Key) -> torch.Generator:
    """Return a torch generator on `device` seeded from `keys`."""
    return torch.Generator(device=device).manual_seed(seed_from(*keys))
