"""Exports as sd-scripts of kohya caches latents: `kohya`, an npz beside each image.

Layout: https://github.com/kohya-ss/sd-scripts, `library/strategy_base.py`.
"""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from posixpath import splitext

import torch
from torch import Tensor

from semdis_cli.files.spelling import check_key
from semdis_cli.parts import LATENTS_FLIP, MASK
from semdis_cli.pipeline.export_sinks.raw import RawFileSink, raw_latents, twin_latents
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.records import Geometry
from semdis_cli.store.exchange.arrays import npz_bytes
from semdis_cli.store.exchange.facts import Size
from semdis_cli.store.shards import Shard

_OF_ONE_SIZE = {"sd", "sdxl"}  # caches that know a single size of each image, and do not say it


class KohyaSink(RawFileSink):
    """`{path without suffix}_{W:04d}x{H:04d}_{arch}.npz`, W and H of the original."""

    num_tensors = 2  # at most

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name the file of each key."""
        return {
            key: _name(check_key(key).as_posix(), job.facts.sources[key], job.settings.arch) for key in job.source.keys
        }

    @classmethod
    def note(cls, job: ExportJob) -> str:
        """Say that no trainer looks for the caches of several images of one file."""
        record = job.source.provenance
        if not (record.sizes or record.has_crops):
            return ""
        return (
            "caches of several images of a file are called by their marks (a#256), and the trainer looks for 'a' alone"
        )

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:
        """Return twins and masks, if the set has any."""
        return [name for name in job.parts if name in {LATENTS_FLIP, MASK}]

    def contents(self, shard: Shard, row: int) -> bytes:
        """Return the cache of an image: its latents and twin, its original size (W, H), its crop, and its mask.

        That reader mirrors a mask itself, and brings it to the size of the latents.
        """
        latents, geometry = raw_latents(self._job, shard, row), shard.records[row].geometry
        arrays: dict[str, Tensor] = {
            "latents": latents,
            "original_size": torch.tensor(geometry.source[::-1]),
            "crop_ltrb": torch.tensor(crop_ltrb(geometry)),
        }
        if LATENTS_FLIP in self._job.parts:
            arrays["latents_flipped"] = twin_latents(self._job, shard, row)
        if MASK in self._job.parts:
            arrays["alpha_mask"] = shard.parts[MASK][row, 0].float()
        height, width = latents.shape[1:]
        end = "" if self._job.settings.arch in _OF_ONE_SIZE else f"_{height}x{width}"
        return npz_bytes({f"{name}{end}": array for name, array in arrays.items()})


def _name(key: str, source: Size, arch: str) -> PurePosixPath:
    base, _ = splitext(key)  # as that reader does: of some strange names pathlib cuts off another suffix
    return PurePosixPath(f"{base}_{source[1]:04d}x{source[0]:04d}_{arch}.npz")


def crop_ltrb(geometry: Geometry) -> tuple[int, int, int, int]:
    """Return where the image was cut out of the resized one, as that reader has it: left, top, right, bottom.

    It takes the width that the model sees less `right` for the left of the mirrored image, so `right` is that width
    less what was cut off at the right; `bottom` likewise.
    """
    top, left = geometry.crop
    cut_below, cut_right = (
        resized - crop - image
        for resized, crop, image in zip(geometry.resized, geometry.crop, geometry.image, strict=True)
    )
    return left, top, geometry.bucket[1] - cut_right, geometry.bucket[0] - cut_below
