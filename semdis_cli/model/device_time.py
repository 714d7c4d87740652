"""Seconds that a CUDA device computes for the calls of a thread: what the thread does beside is host time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import torch

_Pair = tuple[torch.cuda.Event, torch.cuda.Event]


class DeviceTime:
    """Time that the device took for what was computed while this was being collected."""

    def __init__(self) -> None:
        self._pairs: list[_Pair] = []

    def add(self, pair: _Pair) -> None:
        """Count what lies between two events."""
        self._pairs.append(pair)

    def seconds(self) -> float | None:
        """Wait for the device, and return its seconds; None if nothing was computed on CUDA."""
        for _, end in self._pairs:
            end.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._pairs) / 1000 if self._pairs else None


class _OfThread(local):
    collected: DeviceTime | None = None


_of_thread = _OfThread()


@contextmanager
def collecting() -> Iterator[DeviceTime]:
    """Collect what networks compute on CUDA in this thread."""
    _of_thread.collected = collected = DeviceTime()
    try:
        yield collected
    finally:
        _of_thread.collected = None


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Have what is given to the current stream of `device` counted, if the thread collects."""
    collected = _of_thread.collected
    if collected is None or device.type != "cuda":
        yield
        return
    stream = torch.cuda.current_stream(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    yield
    end.record(stream)
    collected.add((begin, end))
