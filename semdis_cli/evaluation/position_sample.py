"""Sample of the positions of latents that a stream goes by: each with the same chance, in bounded memory."""

import numpy as np
from numpy.typing import NDArray

NUM_SAMPLED = 1 << 15  # the first and the last percentile have 300 positions beyond them


class PositionSample:
    """Keeps `num_kept` of the positions that are added, or all while there are no more. Equal streams keep the same."""

    def __init__(self, num_channels: int, num_kept: int = NUM_SAMPLED, seed: int = 0) -> None:
        self._num_kept = num_kept
        self._generator = np.random.default_rng(seed)
        self._positions = [np.empty((0, num_channels), np.float32)]
        self._marks = [np.empty(0)]
        self._limit = 1.0  # the positions with the lowest marks stay, and above this one none will

    def add(self, positions: NDArray[np.float32]) -> None:
        """Offer positions, [P,Z]."""
        marks = self._generator.random(len(positions))
        chosen = marks < self._limit
        self._positions.append(positions[chosen])
        self._marks.append(marks[chosen])
        if sum(map(len, self._marks)) > 2 * self._num_kept:
            self._cut()

    def positions(self) -> NDArray[np.float32]:
        """Return those that were kept, [P,Z], in the order in which they came."""
        self._cut()
        return self._positions[0]

    def percentiles(self, *shares: float) -> NDArray[np.float64]:
        """Return percentiles, each 0..100, of every channel, [len(shares), Z]; zeros if nothing was added."""
        positions = self.positions()
        if not len(positions):
            return np.zeros((len(shares), positions.shape[1]))
        return np.percentile(positions.astype(np.float64), shares, axis=0)

    def _cut(self) -> None:
        positions, marks = np.concatenate(self._positions), np.concatenate(self._marks)
        if len(marks) > self._num_kept:
            kept = np.sort(np.argpartition(marks, self._num_kept)[: self._num_kept])
            positions, marks = positions[kept], marks[kept]
            self._limit = float(marks.max())
        self._positions, self._marks = [positions], [marks]
