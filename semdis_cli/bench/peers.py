"""Another autoencoder beside this one: same machine, same size, same dtype, their rounds taking turns.

Its weights are random, which makes no difference to the speed. It is run in the fastest of several ways.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from semdis_cli.bench.limit import Spread
from semdis_cli.bench.machine import intra_op_threads, synchronise
from semdis_cli.bench.model import ModelCall, decoding_call, encoding_call, run_calls
from semdis_cli.bench.settings import PeerName
from semdis_cli.bench.timing import Effort, elapsed_s
from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.network import CallStreams, to_device, to_host
from semdis_cli.model.pixels import float_to_images, images_to_float
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.workers import Workers
from semdis_cli.stops import looking

C = TypeVar("C")
_FOUR = 4  # levels of the KL autoencoders, each half the size of the one before


@dataclass(frozen=True)
class PeerKind:
    """A published autoencoder: its class in diffusers, the arguments of that, and the shape of its latents."""

    title: str
    class_name: str
    arguments: dict[str, Any]
    latent_channels: int
    downsampling: int


# Arguments as in the published configs; what is not given is the class's default, and equal to them.
PEERS: dict[PeerName, PeerKind] = {
    "flux2": PeerKind("FLUX.2 VAE", "AutoencoderKLFlux2", {}, 32, 8),
    "sd": PeerKind(
        "Stable Diffusion VAE",
        "AutoencoderKL",
        {
            "down_block_types": ("DownEncoderBlock2D",) * _FOUR,
            "up_block_types": ("UpDecoderBlock2D",) * _FOUR,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
        },
        4,
        8,
    ),
    "dcae": PeerKind(  # dc-ae-f32c32-sana
        "DC-AE f32c32",
        "AutoencoderDC",
        {
            "latent_channels": 32,
            "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
            "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
            "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "upsample_block_type": "interpolate",
            "downsample_block_type": "conv",
        },
        32,
        32,
    ),
}


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


def find_peer(name: PeerName) -> Callable[..., nn.Module]:
    """Return the class of a peer. Raises `MissingExtraError` where diffusers is not installed, or does not work."""
    try:
        import diffusers

        found: Callable[..., nn.Module] = getattr(diffusers, PEERS[name].class_name)
    except (ImportError, AttributeError, RuntimeError) as error:  # it loads its own parts, and what they need, late
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise MissingExtraError(
            f"--against {name} needs diffusers: pip install 'semdis[peers]' ({reason:.200})"
        ) from error
    return found


def make_peer(name: PeerName, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Make a peer of the published size with random weights. Raises as `find_peer`."""
    peer = find_peer(name)(**PEERS[name].arguments)
    nn.Module.to(
        peer, device=device, dtype=dtype
    )  # their own `to` warns of layers to keep in float32, of which it has none
    return peer.eval().requires_grad_(False)


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
    peer = make_peer(name, tokenizer.model.device, tokenizer.model.dtype)
    images = torch.randint(256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grid = (size[0] // kind.downsampling, size[1] // kind.downsampling)
    latents = torch.randn(count, kind.latent_channels, *grid, generator=torch.Generator().manual_seed(0))
    ours = (encoding_call(tokenizer, size, our_count), decoding_call(tokenizer, size, our_count, sampling))
    streams = CallStreams(tokenizer.model.device)
    theirs = (lambda: _encode(peer, images, streams), lambda: _decode(peer, latents, streams))
    encode, decode = (
        _compare(_Side(run_calls(our, workers), our_count), _Side(their, count), peer, workers, effort)
        for our, their in zip(ours, theirs, strict=True)
    )
    num_parameters = sum(parameter.numel() for parameter in peer.parameters())
    return PeerSpeed(name, kind.title, num_parameters, *size, our_count, count, encode, decode)


@torch.inference_mode()
def _encode(peer: Any, images: Tensor, streams: CallStreams) -> Tensor:
    """Encode uint8 [B,3,H,W] to latents, float32 on the CPU, as our own model does."""
    weight = next(peer.parameters())
    with streams.current():
        x = _as_weights(images_to_float(to_device(images, weight.device)), weight)
        found = peer.encode(x)
        latents: Tensor = found.latent if hasattr(found, "latent") else found.latent_dist.mode()
        return to_host(latents.float())


@torch.inference_mode()
def _decode(peer: Any, latents: Tensor, streams: CallStreams) -> Tensor:
    """Decode latents to uint8 [B,3,H,W] on the CPU."""
    weight = next(peer.parameters())
    with streams.current():
        decoded = peer.decode(_as_weights(to_device(latents, weight.device), weight)).sample
        return to_host(float_to_images(decoded))


def _as_weights(x: Tensor, weight: Tensor) -> Tensor:
    """Convert `x` to the dtype of `weight`, and to its memory format."""
    is_last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return x.to(weight.dtype, memory_format=torch.channels_last if is_last else torch.contiguous_format)


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
