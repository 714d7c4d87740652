"""Figures of steps, on their way from the device."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reading:
    """Figures of `step` (from 1), by name."""

    step: int
    values: dict[str, float]


class Readings:
    """Figures of the last steps in their order.

    Reading a figure on CUDA at once would wait for all that the device has been given, and leave it with nothing to do
    until the next step is there: a copy is under way there when `put` returns, and `take` waits for that alone.
    """

    def __init__(self) -> None:
        self._under_way: deque[_Copy] = deque()

    def put(self, step: int, values: dict[str, Tensor]) -> None:
        """Begin to copy the figures of `step`, 0-dim tensors on one device."""
        figures = torch.stack([value.detach() for value in values.values()])
        is_on_cuda = figures.device.type == "cuda"
        host, event = figures.to("cpu", non_blocking=is_on_cuda), None
        if is_on_cuda:
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(figures.device))
        self._under_way.append(_Copy(step, tuple(values), host, event))

    def take(self) -> Iterator[Reading]:
        """Give all figures that were put, and forget them."""
        while self._under_way:
            copy = self._under_way.popleft()
            if copy.event is not None:
                copy.event.synchronize()
            yield Reading(copy.step, dict(zip(copy.names, copy.figures.tolist(), strict=True)))


@dataclass(frozen=True, slots=True)
class _Copy:
    """Figures in pinned memory once `event` has happened."""

    step: int
    names: tuple[str, ...]
    figures: Tensor
    event: torch.cuda.Event | None
