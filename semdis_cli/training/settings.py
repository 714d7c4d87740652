"""Settings of a training run: each once, with the value of the published recipe where it is known."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from semdis_cli.errors import UsageError

OptimizerName = Literal["muon", "adamw"]
DtypeName = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms. Defaults are those of the model card, or off where the card has no such term.

    `sid2_bias`: of the sigmoid weighting (natural log-SNR). `one_step_share`: part of each batch that is trained at
    t = 1 exactly, from pure noise, with weight 1 - what a single decoder step sees - instead of at random t.
    `balance`: how far those errors are evened out between smooth and rough crops (0 not at all, 1 fully). `path_drop`:
    part of each batch whose middle blocks are left out.
    """

    sid2_bias: float = -2.0
    one_step_share: float = 0.0
    balance: float = 0.0
    variance_expansion: float = 1e-5
    latent_scale: float = 1e-4
    alignment: float = 0.01
    path_drop: float = 0.1

    def __post_init__(self) -> None:
        _check("sid2_bias", self.sid2_bias, -100, 100)
        for name in ("one_step_share", "balance", "path_drop"):
            _check(name, getattr(self, name), 0, 1)
        for name in ("variance_expansion", "latent_scale", "alignment"):
            _check(name, getattr(self, name), 0, 1e6)


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer.

    `name`: "adamw" for all weights, or "muon" for the matrices inside the blocks and AdamW for the rest. Rates are
    those of the peak; linear layers at the model's ends take `linear_rate_factor` of theirs. `warmup_steps` up, then
    straight down to zero at the last step. `clip_norm`: of the whole gradient.
    """

    name: OptimizerName = "muon"
    muon_rate: float = 2e-3
    adamw_rate: float = 1e-3
    linear_rate_factor: float = 0.1
    weight_decay: float = 0.0
    warmup_steps: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.9995

    def __post_init__(self) -> None:
        for name in ("muon_rate", "adamw_rate"):
            _check(name, getattr(self, name), 0, 10)
        for name in ("linear_rate_factor", "weight_decay", "ema_decay"):
            _check(name, getattr(self, name), 0, 1)
        _check("warmup_steps", self.warmup_steps, 0, 10**9)
        _check("clip_norm", self.clip_norm, 1e-9, 1e9)


@dataclass(frozen=True)
class TrainingSettings:
    """A whole run but for its images and architecture.

    `batch_size` crops of `crop_px` a step; `seed` of all chance. The network computes in `dtype` (bfloat16 under
    autocast: weights, losses and optimizer stay float32), and the checkpoint is stored in `weights_dtype`.
    """

    num_steps: int = 10_000
    batch_size: int = 32
    crop_px: int = 128
    seed: int = 0
    dtype: DtypeName = "bfloat16"
    weights_dtype: DtypeName = "float32"
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        _check("num_steps", self.num_steps, 1, 10**9)
        _check("batch_size", self.batch_size, 1, 10**6)
        _check("crop_px", self.crop_px, 1, 2**15)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ready for `json.dumps`."""
        return dataclasses.asdict(self)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        option = "--" + name.removeprefix("num_").removesuffix("_px").replace("_", "-")
        raise UsageError(f"{option} must be in {least:g}..{most:g}, not {value:g}")
