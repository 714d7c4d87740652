"""The model by itself: how fast it encodes and decodes, and which share of the machine's matrix products that is."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from semdis_cli.bench.limit import Spread
from semdis_cli.bench.machine import GemmRate, measure_product
from semdis_cli.bench.timing import Effort, time_rounds
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.workers import Workers

ModelCall = Callable[[], object]


@dataclass(frozen=True)
class ModelSpeed:
    """Speed of one direction of a model at one size.

    `images_per_call` images a call, `num_calls_at_once` calls at once, as in a run. `latency_s`: of a call with one
    image, while the machine does nothing else. `share_of_gemm`: of the rate of the machine's matrix products, 0..1 and
    sometimes a little above.
    """

    height_px: int
    width_px: int
    images_per_call: int
    num_calls_at_once: int
    images_per_s: Spread
    megapixels_per_s: Spread
    latency_s: Spread
    gflop_per_image: float
    tflop_per_s: float
    share_of_gemm: float

    def beside(self, gemm: GemmRate) -> "ModelSpeed":
        """Return the same with its share of another `gemm`."""
        return replace(self, share_of_gemm=self.tflop_per_s / gemm.tflop_per_s)


@dataclass(frozen=True)
class OwnGemmRate:
    """TFLOP/s of the products of a model's blocks: `rows` patches of a call, `model_dim` to `hidden_dim` and back.

    They are narrower than square ones, and slower: `tflop_per_s` of both is what blocks could reach.
    """

    rows: int
    model_dim: int
    hidden_dim: int
    up_tflop_per_s: Spread
    down_tflop_per_s: Spread
    tflop_per_s: float


def measure_own_gemm(tokenizer: Tokenizer, size: tuple[int, int], workers: Workers, effort: Effort) -> OwnGemmRate:
    """Measure the products of the blocks for a call of images of `size` (H, W) px, as many at once as calls are."""
    config, model = tokenizer.model.config, tokenizer.model
    rows = tokenizer.images_per_call(*size) * (size[0] // config.patch_size) * (size[1] // config.patch_size)
    widths = config.model_dim, config.hidden_dim
    tflop = 2 * rows * widths[0] * widths[1] / 1e12
    up, down = (
        measure_product((rows, *shape), model.device, model.dtype, workers, effort).rate(tflop)
        for shape in (widths, widths[::-1])
    )
    return OwnGemmRate(rows, *widths, up, down, 2 / (1 / up.median + 1 / down.median))


def measure_encode(
    tokenizer: Tokenizer, size: tuple[int, int], gemm: GemmRate, workers: Workers, effort: Effort
) -> ModelSpeed:
    """Measure encoding of images of `size` (H, W) px."""
    flop = tokenizer.encode_flops(*size)
    count = tokenizer.images_per_call(*size)
    calls = _Calls(encoding_call(tokenizer, size, count), encoding_call(tokenizer, size, 1), count)
    return _measure(calls, size, flop, gemm, workers, effort)


def measure_decode(
    tokenizer: Tokenizer,
    size: tuple[int, int],
    sampling: FCDMDiffAEInferenceConfig,
    gemm: GemmRate,
    workers: Workers,
    effort: Effort,
) -> ModelSpeed:
    """Measure decoding to images of `size` (H, W) px."""
    flop = tokenizer.decode_flops(*size, sampling.num_steps, pdg=sampling.pdg)
    count = tokenizer.images_per_call(*size)
    calls = _Calls(decoding_call(tokenizer, size, count, sampling), decoding_call(tokenizer, size, 1, sampling), count)
    return _measure(calls, size, flop, gemm, workers, effort)


def encoding_call(tokenizer: Tokenizer, size: tuple[int, int], count: int) -> ModelCall:
    """Return a call that encodes `count` images of `size` (H, W) px."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=generator)  # as decoders leave them
    images = images.permute(0, 3, 1, 2)
    keys = [f"{number}" for number in range(count)]
    return lambda: tokenizer.encode(images, keys)


def decoding_call(
    tokenizer: Tokenizer, size: tuple[int, int], count: int, sampling: FCDMDiffAEInferenceConfig
) -> ModelCall:
    """Return a call that decodes latents to `count` images of `size` (H, W) px."""
    grid = (size[0] // tokenizer.patch_size, size[1] // tokenizer.patch_size)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(count, tokenizer.latent_channels, *grid, generator=generator)
    keys = [f"{number}" for number in range(count)]
    return lambda: tokenizer.decode(latents, keys, sampling)


def run_calls(call: ModelCall, workers: Workers) -> Callable[[int], None]:
    """Return a function that makes a number of calls, as many at once as a run does."""

    def run(count: int) -> None:
        for future in [workers.submit_model(call) for _ in range(count)]:
            workers.result(future)

    return run


@dataclass(frozen=True)
class _Calls:
    """A call of `images_per_call` images, and one of a single image."""

    full: ModelCall
    single: ModelCall
    images_per_call: int


def _measure(
    calls: _Calls, size: tuple[int, int], flop_per_image: float, gemm: GemmRate, workers: Workers, effort: Effort
) -> ModelSpeed:
    run_single = run_calls(calls.single, workers)
    rounds = time_rounds(run_calls(calls.full, workers), effort, multiple=workers.num_model_threads)
    latency_s = time_rounds(lambda count: [run_single(1) for _ in range(count)], effort).unit_s()
    images_per_s = rounds.rate(calls.images_per_call)
    tflop_per_s = images_per_s.median * flop_per_image / 1e12
    return ModelSpeed(
        height_px=size[0],
        width_px=size[1],
        images_per_call=calls.images_per_call,
        num_calls_at_once=workers.num_model_threads,
        images_per_s=images_per_s,
        megapixels_per_s=rounds.rate(calls.images_per_call * size[0] * size[1] / 1e6),
        latency_s=latency_s,
        gflop_per_image=flop_per_image / 1e9,
        tflop_per_s=tflop_per_s,
        share_of_gemm=tflop_per_s / gemm.tflop_per_s,
    )
