"""Architecture of a model (`config.json`, as published) and settings of decoding (`FCDMDiffAEInferenceConfig`)."""

import dataclasses
import json
import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args, get_type_hints

from semdis_cli.errors import CheckpointError
from semdis_cli.files.atomic import publish
from semdis_cli.files.links import or_pointer
from semdis_cli.settings import NoiseKind, Sampler, Schedule

PosteriorKind = Literal["diagonal_gaussian", "deterministic"]
NormMode = Literal["disabled", "channel_wise"]
PatchifyMode = Literal["off", "patch_2x2"]

CONFIG_FILE = "config.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_LISTED = 6
# Fields that the first published config.json does not have: written only where they differ from these defaults.
_LATER_FIELDS = ("bottleneck_patchify_mode", "latent_running_stats_eps")


@dataclass(frozen=True)
class FCDMDiffAEConfig:
    """Hyper-parameters of `FCDMDiffAE`; names and defaults are those of the published `config.json`.

    `patch_size` in pixels; `logsnr_min`/`logsnr_max` natural log; `pixel_noise_std` in units of the [-1, 1] image
    range. Raises `CheckpointError` for values that describe no model (negative sizes, blocks that do not add up, ...).
    """

    in_channels: int = 3
    patch_size: int = 16
    model_dim: int = 896
    encoder_depth: int = 4
    decoder_depth: int = 8
    decoder_start_blocks: int = 2
    decoder_end_blocks: int = 2
    bottleneck_dim: int = 128
    mlp_ratio: float = 4.0
    depthwise_kernel_size: int = 7
    adaln_low_rank_rank: int = 128
    bottleneck_posterior_kind: PosteriorKind = "diagonal_gaussian"
    bottleneck_norm_mode: NormMode = "disabled"
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    pixel_noise_std: float = 0.558
    bottleneck_patchify_mode: PatchifyMode = "off"
    latent_running_stats_eps: float = 1e-4

    def __post_init__(self) -> None:
        problems = [*_wrong_types(self), *_wrong_values(self)]
        if problems:
            raise CheckpointError(f"{CONFIG_FILE} describes no model: {'; '.join(problems)}")

    @property
    def hidden_dim(self) -> int:
        """Width inside a block, H = int(C * mlp_ratio)."""
        return int(self.model_dim * self.mlp_ratio)

    @property
    def bottleneck_patch(self) -> int:
        """Side of the bottleneck patches that are folded into channels: 1, or 2 for the p32 model."""
        return 2 if self.bottleneck_patchify_mode == "patch_2x2" else 1

    @property
    def effective_patch_size(self) -> int:
        """Pixels per latent position along each side (16; 32 for p32)."""
        return self.patch_size * self.bottleneck_patch

    @property
    def latent_channels(self) -> int:
        """Channels Z of a latent as exchanged (128; 512 for p32)."""
        return self.bottleneck_dim * self.bottleneck_patch**2

    @property
    def num_middle_blocks(self) -> int:
        """Decoder blocks that path-drop guidance leaves out."""
        return self.decoder_depth - self.decoder_start_blocks - self.decoder_end_blocks

    def to_json(self) -> str:
        """The text of `config.json` in the published form: two-space indent, fields in order, a newline at the end."""
        fields = dataclasses.asdict(self)
        for name in _LATER_FIELDS:
            if fields[name] == type(self).__dataclass_fields__[name].default:
                del fields[name]
        return json.dumps(fields, indent=2) + "\n"

    def save(self, path: str | Path) -> None:
        """Write `config.json` to `path` (a file)."""
        publish(Path(path), [self.to_json().encode()])

    @classmethod
    def load(cls, path: str | Path) -> "FCDMDiffAEConfig":
        """Read `config.json`. Raises `CheckpointError` naming the file and what is wrong with it."""
        path = Path(path)
        try:
            if path.exists() and not path.is_file():  # a pipe would keep us waiting
                raise CheckpointError("cannot be read (not a regular file)", place=path)
            if path.stat().st_size > _MAX_CONFIG_BYTES:
                raise CheckpointError(f"larger than {_MAX_CONFIG_BYTES} bytes, so no model config", place=path)
            fields = json.loads(path.read_bytes())
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror})", place=path) from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(or_pointer(path, f"not JSON ({error})"), place=path) from error
        try:
            return cls.from_fields(fields)
        except CheckpointError as error:
            raise CheckpointError(error.reason, place=path) from error

    @classmethod
    def from_fields(cls, fields: Any) -> "FCDMDiffAEConfig":
        """Build from parsed JSON. Raises `CheckpointError` for unknown keys, wrong types or impossible values."""
        if not isinstance(fields, dict):
            raise CheckpointError(f"expected an object of settings, found {type(fields).__name__}")
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            names = ", ".join(ascii(name)[1:-1][:40] for name in unknown[:_MAX_LISTED])
            raise CheckpointError(f"unknown settings {names}: not a config of this architecture")
        return cls(**fields)


@dataclass
class FCDMDiffAEInferenceConfig:
    """Settings of decoding.

    `num_steps`: decoder evaluations (twice as many with `pdg`). `seed`: of the starting noise; None draws it afresh.
    `noise`: the generator with which a `Tokenizer` draws it for each image; the model by itself draws that of all
    images at once, by PyTorch's. Raises `ValueError` for a value outside its range; when it decodes too, since fields
    may be set.
    """

    num_steps: int = 1
    sampler: Sampler = "ddim"
    schedule: Schedule = "linear"
    pdg: bool = False
    pdg_strength: float = 2.0
    seed: int | None = None
    noise: NoiseKind = "philox"

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise `ValueError` for a value outside its range."""
        if not _is_whole(self.num_steps) or self.num_steps < 1:
            raise ValueError(f"num_steps must be a whole number of at least 1, not {self.num_steps!r}")
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler must be one of {get_args(Sampler)}, not {self.sampler!r}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {get_args(Schedule)}, not {self.schedule!r}")
        if not _is_finite(self.pdg_strength):
            raise ValueError(f"pdg_strength must be a finite number, not {self.pdg_strength!r}")
        if self.seed is not None and not _is_whole(self.seed):
            raise ValueError(f"seed must be a whole number or None, not {self.seed!r}")
        if self.noise not in get_args(NoiseKind):
            raise ValueError(f"noise must be one of {get_args(NoiseKind)}, not {self.noise!r}")


def _is_finite(value: object) -> bool:
    """Return True for a number, NumPy's included, that is neither NaN nor infinite."""
    return isinstance(value, Real) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    """Return True for what can count, NumPy's integers included."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _wrong_types(config: FCDMDiffAEConfig) -> list[str]:
    problems = []
    for name, hint in get_type_hints(FCDMDiffAEConfig).items():
        value = getattr(config, name)
        if hint is int:
            right = isinstance(value, int) and not isinstance(value, bool)
        elif hint is float:
            whole = isinstance(value, int) and not isinstance(value, bool)
            right = whole or (isinstance(value, float) and math.isfinite(value))
        else:
            right = isinstance(value, str) and value in get_args(hint)
        if not right:
            problems.append(f"{name} = {value!r:.40} is not {_describe(hint)}")
    return problems


def _describe(hint: Any) -> str:
    if hint is int:
        return "a whole number"
    return "a finite number" if hint is float else f"one of {', '.join(get_args(hint))}"


def _wrong_values(config: FCDMDiffAEConfig) -> list[str]:
    if _wrong_types(config):
        return []
    limits = {  # name: (least, most); the upper ends only keep a hostile file from asking for terabytes
        "in_channels": (1, 64),
        "patch_size": (1, 256),
        "model_dim": (1, 16384),
        "encoder_depth": (0, 256),
        "decoder_depth": (0, 256),
        "decoder_start_blocks": (0, 256),
        "decoder_end_blocks": (0, 256),
        "bottleneck_dim": (1, 16384),
        "mlp_ratio": (0, 64),
        "depthwise_kernel_size": (1, 63),
        "adaln_low_rank_rank": (1, 16384),
        "logsnr_min": (-1000, 1000),
        "logsnr_max": (-1000, 1000),
        "pixel_noise_std": (0, 1e6),
        "latent_running_stats_eps": (0, 1e6),
    }
    problems = [
        f"{name} = {getattr(config, name)!r:.40} is outside {least:g}..{most:g}"
        for name, (least, most) in limits.items()
        if not least <= getattr(config, name) <= most
    ]
    if problems:
        return problems
    if config.pixel_noise_std == 0 or config.latent_running_stats_eps == 0:
        problems.append("pixel_noise_std and latent_running_stats_eps must be above zero")
    if config.hidden_dim < 1:
        problems.append(f"mlp_ratio = {config.mlp_ratio} leaves no hidden channel")
    if config.depthwise_kernel_size % 2 == 0:
        problems.append(f"depthwise_kernel_size = {config.depthwise_kernel_size} is even")
    if config.num_middle_blocks < 0:
        problems.append("decoder_start_blocks + decoder_end_blocks exceed decoder_depth")
    if not config.logsnr_min < config.logsnr_max:
        problems.append("logsnr_min is not below logsnr_max")
    return problems
