"""A seeded shuffle of `range(size)` that is evaluated at any index, in constant memory."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

ROUNDS = 6


def derive_key(*parts: int | str) -> int:
    """A 64-bit key that depends on every part: the same parts, the same key, on every machine."""
    return int(xxhash.xxh3_64_intdigest("/".join(map(str, parts)).encode()))


class Permutation:
    """A pseudo-random bijection of `range(size)`: a Feistel network whose out-of-range values walk on.

    The network permutes the smallest even-bit domain that holds `size`, which is at most four times as large; an
    image outside the range is permuted again until it falls inside (cycle walking), so the whole stays a bijection.
    """

    def __init__(self, size: int, key: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, not {size}")
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_key(key, turn)) for turn in range(ROUNDS)]

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of `index` (any shape, values in [0, size))."""
        image = self._network(index.astype(np.uint64))
        outside = image >= self.size
        while outside.any():
            image[outside] = self._network(image[outside])
            outside = image >= self.size
        return image.astype(np.int64)

    def _network(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix64(right ^ key) & self._mask)
        return (left << self._half) | right


def mix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit changes about half of the output bits."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
