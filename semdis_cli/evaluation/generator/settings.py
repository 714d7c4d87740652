"""The settings of `--generator`, read before torch is loaded."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from semdis_cli.option import GENERATOR, Group, Option
from semdis_cli.settings import Device, Dtype, Seed, Threads

GeneratorSize = Literal["tiny", "S", "B"]
_LEAST_MEASURED, _MOST_MEASURED = 16, 1024
_RATES: dict[GeneratorSize, float] = {"tiny": 1e-3, "S": 1e-4, "B": 1e-4}


@dataclass(frozen=True)
class GeneratorSettings(Group):
    """All that decides the weights but the latents. `rate`: of AdamW, None for that of the size.

    The first of `num_seeds` is `seed`, and each is one more than the last. The network computes in `dtype` (bfloat16
    under autocast: weights, losses and optimizer stay float32). `label_dropout`: part of the labels that is hidden.
    """

    size: Annotated[
        GeneratorSize,
        Option("Network: DiT-S or DiT-B for a GPU, tiny to try it on a CPU.", GENERATOR, flags="--generator-size"),
    ] = "S"
    num_steps: Annotated[
        int, Option("Steps of a curve.", GENERATOR, flags="--generator-steps", min=1, within=(1, 10**9))
    ] = 20_000
    batch_size: Annotated[
        int, Option("Images of a step.", GENERATOR, flags="--generator-batch-size", min=1, within=(1, 10**6))
    ] = 256
    rate: Annotated[
        float | None,
        Option(
            "Rate of AdamW.  [default: 1e-4; tiny: 1e-3]",
            GENERATOR,
            flags="--generator-rate",
            within=(0, 10),
            show_default=False,
        ),
    ] = None
    ema_decay: Annotated[
        float, Option("Decay of the weights' moving average.", GENERATOR, flags="--generator-ema", within=(0, 1))
    ] = 0.9999
    num_points: Annotated[int, Option("Points of a curve.", GENERATOR, flags="--generator-points", min=1, max=1000)] = (
        24
    )
    num_seeds: Annotated[
        int,
        Option(
            "Curves of each set, seeds from --seed on: two or more give intervals.",
            GENERATOR,
            flags="--generator-seeds",
            min=1,
            max=10,
        ),
    ] = 1
    seed: Seed = 0
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    label_dropout: float = 0.1

    @property
    def peak_rate(self) -> float:
        """Return the rate of AdamW after its first steps."""
        return _RATES[self.size] if self.rate is None else self.rate

    @property
    def seeds(self) -> range:
        """Return the seeds, a curve each."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def point_steps(self) -> tuple[int, ...]:
        """Return the steps at which a curve has points: dense at first, where it is steep: num_steps (i / n)^2."""
        shares = ((number / self.num_points) ** 2 for number in range(self.num_points + 1))
        return tuple(sorted({round(self.num_steps * share) for share in shares}))

    @property
    def num_measured(self) -> int:
        """Return the images of a measurement, each at ten times: a curve measures half of what it learns, or less."""
        return max(_LEAST_MEASURED, min(_MOST_MEASURED, self.num_steps * self.batch_size // (20 * self.num_points)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for `json.dumps`."""
        return dataclasses.asdict(self) | {"rate": self.peak_rate}


@dataclass(frozen=True)
class GeneratorRunSettings(Group):
    """A comparison as it is asked for. `save_s`: seconds between saves; no weight depends on it."""

    is_on: Annotated[
        bool,
        Option(
            "Train a small generator on each set of latents and draw its loss curves.", GENERATOR, flags="--generator"
        ),
    ] = False
    generator: GeneratorSettings = GeneratorSettings()
    save_s: float = 300.0
    device: Device = "auto"
    dtype: Dtype = "auto"
    num_threads: Threads = None
