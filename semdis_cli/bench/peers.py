"""Another autoencoder beside this one: same machine, same size, same dtype, their rounds taking turns.

Its weights are random, which makes no difference to the speed. It is run in the fastest of several ways.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from semdis_cli.bench.limit import Spread
from semdis_cli.bench.machine import intra_op_threads, synchronise
from semdis_cli.bench.model import ModelCall, decoding_call, encoding_call, run_calls
from semdis_cli.bench.timing import Effort, elapsed_s
from semdis_cli.errors import UsageError
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.peers import PEERS, make_peer
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.workers import Workers
from semdis_cli.settings.contenders import PeerName
from semdis_cli.stops import looking

C = TypeVar("C")


@dataclass(frozen=True)
class Comparison:
    """One direction, both models: the rates of rounds that took turns, and the ratio of each pair of rounds.

    `peer_way`: how the peer was run, the fastest that was tried.
    """

    images_per_s: Spread
    peer_images_per_s: Spread
    ratio: Spread
    peer_way: str


@dataclass(frozen=True)
class PeerSpeed:
    """This model beside a peer: the ratio is how many times as many images a second this model does."""

    name: str
    title: str
    num_parameters: int
    height_px: int
    width_px: int
    images_per_call: int
    peer_images_per_call: int
    encode: Comparison
    decode: Comparison


def check_size(name: PeerName, size: tuple[int, int]) -> None:
    """Raise `UsageError` if the peer cannot take images of `size` (H, W) px."""
    kind = PEERS[name]
    if size[0] % kind.downsampling or size[1] % kind.downsampling:
        sides = f"sides that are multiples of {kind.downsampling}, not {size[0]}x{size[1]}"
        raise UsageError(f"--against {name}: {kind.title} takes {sides}")


def measure_peer(
    name: PeerName,
    tokenizer: Tokenizer,
    size: tuple[int, int],
    sampling: FCDMDiffAEInferenceConfig,
    workers: Workers,
    effort: Effort,
) -> PeerSpeed:
    """Measure both models at `size` (H, W) px. Raises `UsageError` for a size the peer cannot take."""
    check_size(name, size)
    kind, our_count = PEERS[name], tokenizer.images_per_call(*size)
    count = 1 if tokenizer.is_on_cpu else our_count  # a CPU gains nothing from more, and some peers take seconds
    peer = make_peer(name, tokenizer.model.device, tokenizer.model.dtype, f"--against {name}")
    images = torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = (size[0] // kind.downsampling, size[1] // kind.downsampling)
    latents = torch.randn(count, kind.latent_channels, *grid, generator=torch.Generator().manual_seed(0))
    ours = (encoding_call(tokenizer, size, our_count), decoding_call(tokenizer, size, our_count, sampling))
    theirs = (lambda: peer.encode(images), lambda: peer.decode(latents))
    encode, decode = (
        _compare(_Side(run_calls(our, workers), our_count), _Side(their, count), peer.network, workers, effort)
        for our, their in zip(ours, theirs, strict=True)
    )
    num_parameters = sum(parameter.numel() for parameter in peer.network.parameters())
    return PeerSpeed(name, kind.title, num_parameters, *size, our_count, count, encode, decode)


@dataclass(frozen=True)
class _Way:
    """A way to run the peer: `run` makes a number of calls, at least `multiple` of them."""

    title: str
    memory_format: torch.memory_format
    run: Callable[[int], object]
    multiple: int


def _ways(call: ModelCall, peer: nn.Module, workers: Workers) -> list[_Way]:
    device = next(peer.parameters()).device

    def in_turn(count: int) -> None:
        with intra_op_threads(workers.num_threads):
            for _ in looking(range(count)):
                call()
            synchronise(device)

    layouts = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
    ways = []
    for layout, memory_format in layouts.items():
        ways.append(_Way(f"{layout}, one call at a time", memory_format, in_turn, 1))
        if workers.num_model_threads > 1:
            at_once = "a call for each core" if device.type == "cpu" else f"{workers.num_model_threads} calls at once"
            title = f"{layout}, {at_once}"
            ways.append(_Way(title, memory_format, run_calls(call, workers), workers.num_model_threads))
    return ways


@dataclass(frozen=True)
class _Side(Generic[C]):
    """One of the two models: what runs it, and the images of a call."""

    call: C
    images_per_call: int


def _compare(
    ours: "_Side[Callable[[int], None]]", theirs: "_Side[ModelCall]", peer: nn.Module, workers: Workers, effort: Effort
) -> Comparison:
    """Let both take turns. Each of the peer's ways is tried once first, after a call that warms it up."""
    their_s: dict[_Way, float] = {}
    for way in _ways(theirs.call, peer, workers):
        nn.Module.to(peer, memory_format=way.memory_format)  # type: ignore[call-overload]
        way.run(way.multiple)
        their_s[way] = elapsed_s(way.run, way.multiple) / way.multiple
    best = min(their_s, key=lambda way: their_s[way])
    nn.Module.to(peer, memory_format=best.memory_format)  # type: ignore[call-overload]
    num_theirs = _calls_a_round(their_s[best], best.multiple, effort)
    at_once = workers.num_model_threads
    ours.call(at_once)
    num_ours = _calls_a_round(elapsed_s(ours.call, at_once) / at_once, at_once, effort)
    rounds = [(elapsed_s(ours.call, num_ours), elapsed_s(best.run, num_theirs)) for _ in range(effort.num_rounds)]
    our_images, their_images = ours.images_per_call * num_ours, theirs.images_per_call * num_theirs
    return compare([(our_images / our, their_images / their) for our, their in rounds], best.title)


def _calls_a_round(call_s: float, multiple: int, effort: Effort) -> int:
    return multiple * max(1, round(effort.round_s / call_s / multiple))


def compare(pairs: Sequence[tuple[float, float]], peer_way: str) -> Comparison:
    """Compare `pairs`: images/s of this model and of the peer, in rounds that followed one another."""
    return Comparison(
        images_per_s=Spread.of([ours for ours, _ in pairs]),
        peer_images_per_s=Spread.of([theirs for _, theirs in pairs]),
        ratio=Spread.of([ours / theirs for ours, theirs in pairs]),
        peer_way=peer_way,
    )
