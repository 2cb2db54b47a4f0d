"""Random choices that repeat: every seed is derived from (seed, purpose, index), never global."""

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed for one purpose and place, the same on every machine and in every process."""
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def random_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return NumPy's generator seeded with `derive_seed(seed, purpose, *index)`."""
    return np.random.default_rng(derive_seed(seed, purpose, *index))
