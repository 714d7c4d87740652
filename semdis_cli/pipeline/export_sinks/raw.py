"""Raw latents in float32, as trainers want them, and files of them that only one of these programs reads."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar

import torch
from torch import Tensor

from semdis_cli.errors import UsageError
from semdis_cli.parts import LATENTS_FLIP, LOG_SNR, LOG_SNR_FLIP
from semdis_cli.pipeline.export_sinks.files import FileSink
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.quantised import real_values
from semdis_cli.store.reader import StoredShard
from semdis_cli.store.shards import Shard
from semdis_cli.store.whitening import raw_moments, to_raw

_VALUE_BYTES = 4
_LEAST_LOG_VARIANCE = -30.0  # what its readers cut all smaller ones to


def raw_latents(job: ExportJob, shard: Shard, row: int) -> Tensor:
    """Return the latents of a row as the model made them, [Z,h,w] float32."""
    return to_raw(real_values(shard.tensors, rows=row), job.whitening)


def describe_raw(job: ExportJob) -> dict[str, object]:
    """Return mean and standard deviation of raw latents over the set, by which trainers scale, and the classes."""
    moments = raw_moments(job.source.sums(), job.whitening)
    mean, std = ([float(f"{value:.8g}") for value in values] for values in moments)
    classes = job.source.classes
    return {"raw_latents": {"mean": mean, "std": std}, **({"classes": list(classes)} if classes else {})}


def latent_bytes(job: ExportJob, stored: StoredShard) -> int:
    """Return the bytes of one image's latents of a shard in float32."""
    height, width = job.facts.grids[next(iter(stored.rows))] if stored.rows else (0, 0)
    return job.source.provenance.layout.channels * height * width * _VALUE_BYTES


class RawFileSink(FileSink):
    """A file for each image that has a name, of `num_tensors` tensors of the shape of its latents."""

    num_tensors: ClassVar[int]
    overhead_bytes = 1024  # headers, and blocks that are not full

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        super().__init__(job, names)
        self._job = job

    @classmethod
    def describe(cls, job: ExportJob) -> dict[str, object]:
        """Return mean and standard deviation of the raw latents, and the classes."""
        return describe_raw(job)

    @classmethod
    def sample_bytes(cls, job: ExportJob, stored: StoredShard) -> int:
        """Return about the bytes of one image's file."""
        return cls.num_tensors * latent_bytes(job, stored) + cls.overhead_bytes

    def write(self, shard: Shard, row: int) -> None:
        """Write the file of an image."""
        self._publish(shard.keys[row], self.contents(shard, row))

    @abstractmethod
    def contents(self, shard: Shard, row: int) -> bytes:
        """Return the file of a row."""


# --- What trainers draw from ---


def check_twins(job: ExportJob, reader: str) -> None:
    """Raise `UsageError` if the latents of mirrored images are wanted, and there are none."""
    if job.settings.twins == "mirrored" and LATENTS_FLIP not in job.parts:
        what = f"holds no latents of mirrored images, of which {reader} draws half of its own"
        how = "encode with --flip both, or --twins same writes those of the image twice"
        raise UsageError(f"{what}; {how}", place=job.source.path)


def twin_parts(job: ExportJob) -> tuple[str, ...]:
    """Return the parts that `twin_latents` are made of."""
    return (LATENTS_FLIP,) if job.settings.twins == "mirrored" else ()


def twin_latents(job: ExportJob, shard: Shard, row: int) -> Tensor:
    """Return the raw latents of the mirrored image of a row, or those of the row itself, [Z,h,w] float32."""
    if job.settings.twins == "same":
        return raw_latents(job, shard, row)
    return to_raw(real_values(shard.tensors, LATENTS_FLIP, row), job.whitening)


def check_std(job: ExportJob, reader: str) -> None:
    """Raise `UsageError` if the posterior's deviation is wanted, and is not there."""
    if job.settings.std == "posterior" and LOG_SNR not in job.parts:
        what = f"holds no deviations of the posterior, from which {reader} draws its latents"
        how = "encode with --posterior moments, or --std zero writes none, so that it draws the same each time"
        raise UsageError(f"{what}; {how}", place=job.source.path)


def std_parts(job: ExportJob, *, has_twins: bool = False) -> tuple[str, ...]:
    """Return the parts that deviations are made of, those of twins too if there are any."""
    if job.settings.std == "zero":
        return ()
    return (LOG_SNR, LOG_SNR_FLIP) if has_twins else (LOG_SNR,)


def std_of(job: ExportJob, shard: Shard, row: int) -> Tensor:
    """Return the standard deviation of the raw latents of a row, [Z,h,w] float32; 0 for none.

    sigma = sqrt(sigmoid(-log SNR)), as signal and noise of the posterior have alpha^2 + sigma^2 = 1 (VP: Kingma et al.
    2021, Variational Diffusion Models, equation 3).
    """
    if job.settings.std == "zero":
        return torch.zeros_like(raw_latents(job, shard, row))
    return torch.sigmoid(-shard.parts[LOG_SNR][row].float()).sqrt()


def log_variance_of(job: ExportJob, shard: Shard, row: int, *, is_twin: bool = False) -> Tensor:
    """Return the logarithm of the variance of the raw latents of a row, [Z,h,w] float32; -30 for none.

    `is_twin`: of those that `twin_latents` gives.
    """
    if job.settings.std == "zero":
        return torch.full_like(raw_latents(job, shard, row), _LEAST_LOG_VARIANCE)
    name = LOG_SNR_FLIP if is_twin and job.settings.twins == "mirrored" else LOG_SNR
    return torch.nn.functional.logsigmoid(-shard.parts[name][row].float()).clamp(min=_LEAST_LOG_VARIANCE)
