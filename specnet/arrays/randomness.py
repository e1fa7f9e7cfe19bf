"""Random draws without state: every draw is a function of (seed, name, step, row).

A Philox generator's key comes from seed and name, its counter from step and row (Salmon et al. 2011). There is no
generator state to save, and a row draws the same numbers however rows are split into batches or over processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from specnet.mpi.world import SINGLE, World


def philox(seed: int, name: str) -> np.random.Philox:
    """Create the generator of one seed and name, with its counter at the beginning."""
    import hashlib  # noqa: PLC0415 - loads OpenSSL, which checking a document does without

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def permutation(seed: int, name: str, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """Return the shuffled order of `count` rows in an epoch."""
    generator = philox(seed, name)
    _set_counter(generator, 0, epoch)
    return np.random.Generator(generator).permutation(count)


def _set_counter(generator: np.random.Philox, block: int, step: int) -> None:
    state = generator.state
    state["state"]["counter"] = np.array([block, 0, step, 0], np.uint64)
    state["buffer_pos"] = 4  # discard buffered draws
    state["has_uint32"] = 0
    generator.state = state


@dataclass
class Draws:
    """The random draws of one model: layers draw by name, and the training loop sets the step and the first row.

    `world` holds the processes that share each batch; statistics of a batch are computed over the rows of all.
    """

    seed: int = 0
    step: int = 0
    first_row: int = 0
    world: World = SINGLE
    _generators: dict[tuple[int, str], np.random.Philox] = field(default_factory=dict, repr=False)
    _keys: dict[tuple[int, str], npt.NDArray[np.int64]] = field(default_factory=dict, repr=False)

    def words(self, name: str, rows: int, width: int) -> npt.NDArray[np.uint32]:
        """Draw `width` uniform 32-bit words for each of `rows` rows: shape (rows, width)."""
        generator = self._generator(name)
        blocks = -(-width // 8)  # a block of Philox is four 64-bit words
        _set_counter(generator, self.first_row * blocks, self.step)
        raw = np.asarray(generator.random_raw(rows * blocks * 4), np.uint64)
        return raw.view(np.uint32).reshape(rows, blocks * 8)[:, :width]

    def position(self, name: str) -> npt.NDArray[np.int64]:
        """Return where `words` starts to draw, for a kernel: the key's two words, the first row and the step."""
        key = self._keys.get((self.seed, name))
        if key is None:
            key = self._keys[self.seed, name] = self._generator(name).state["state"]["key"].view(np.int64)
        return np.array([*key, self.first_row, self.step], np.int64)

    def _generator(self, name: str) -> np.random.Philox:
        generator = self._generators.get((self.seed, name))
        if generator is None:
            generator = self._generators[self.seed, name] = philox(self.seed, name)
        return generator
