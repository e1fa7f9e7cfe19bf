"""Randomness as a function, not a state: every draw is decided by (seed, name, step, row).

A Philox generator's key comes from seed and name, its counter from step and row (Salmon et al. 2011), so there is
no generator state to save, and rows that are split over several batches or processes draw the same numbers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specnet.mpi.world import SINGLE, World


def philox(seed: int, name: str) -> np.random.Philox:
    """Make the generator of one purpose; its counter stands at the beginning."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def permutation(seed: int, name: str, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Give the order of `count` rows in an epoch."""
    generator = philox(seed, name)
    _move(generator, 0, epoch)
    return np.random.Generator(generator).permutation(count)


def _move(generator: np.random.Philox, block: int, step: int) -> None:
    state = generator.state
    state["state"]["counter"] = np.array([block, 0, step, 0], np.uint64)
    state["buffer_pos"] = 4  # drop what was drawn ahead
    state["has_uint32"] = 0
    generator.state = state


@dataclass
class Draws:
    """The draws of one model: layers take theirs by name, the loop says which step and which row comes first.

    `world` are the processes that share each batch: what is taken over a batch is taken over all their rows.
    """

    seed: int = 0
    step: int = 0
    first_row: int = 0
    world: World = SINGLE
    _generators: dict[tuple[int, str], np.random.Philox] = field(default_factory=dict, repr=False)

    def words(self, name: str, rows: int, width: int) -> npt.NDArray[np.uint32]:
        """Draw `width` even 32-bit words for each of `rows` rows: shape (rows, width)."""
        generator = self._generators.get((self.seed, name))
        if generator is None:
            generator = self._generators[self.seed, name] = philox(self.seed, name)
        blocks = -(-width // 8)  # a block of Philox is four 64-bit words
        _move(generator, self.first_row * blocks, self.step)
        raw = np.asarray(generator.random_raw(rows * blocks * 4), np.uint64)
        return raw.view(np.uint32).reshape(rows, blocks * 8)[:, :width]
