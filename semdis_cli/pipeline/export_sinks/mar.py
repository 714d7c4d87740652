"""Exports as MAR reads its cached latents: `mar`, an npz an image in a folder for each class.

Layout: https://github.com/LTH14/mar, `main_cache.py` and `util/loader.py`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import torch

from semdis_cli.errors import StoreError
from semdis_cli.files.spelling import check_key
from semdis_cli.pipeline.export_sinks.raw import (
    RawFileSink,
    check_std,
    check_twins,
    log_variance_of,
    raw_latents,
    std_parts,
    twin_latents,
    twin_parts,
)
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.exchange.arrays import npz_bytes
from semdis_cli.store.shards import Shard

_READER = "MAR"


class MarSink(RawFileSink):
    """`<class>/<key>.npz`; a key that begins with its class has that once.

    That reader numbers the folders as they are sorted, so classes go by their names only where these sort as their
    numbers do.
    """

    num_tensors = 4

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        super().__init__(job, names)
        self.failures = [*self.failures, *job.facts.unlabelled(_READER)]

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name the file of each key that has a label."""
        job.facts.one_grid(_READER)
        job.facts.check_labels(_READER)
        check_twins(job, _READER)
        check_std(job, _READER)
        labels = job.facts.labels
        folders = class_folders(job.source.classes, labels.values())
        return {key: _name(key, folders[labels[key]]) for key in job.source.keys if key in labels}

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:
        """Return twins and log-SNRs, as far as they are wanted."""
        twins = twin_parts(job)
        return *twins, *std_parts(job, has_twins=bool(twins))

    @classmethod
    def note(cls, job: ExportJob) -> str:
        """Say which classes that reader will number otherwise."""
        gaps = job.facts.describe_gaps()
        return f"{gaps}: {_READER} numbers the folders that it finds, so those behind change places" if gaps else ""

    def contents(self, shard: Shard, row: int) -> bytes:
        """Return mean and log-variance, [2Z,h,w], of the image and of its twin."""
        job = self._job
        moments = raw_latents(job, shard, row), log_variance_of(job, shard, row)
        of_twin = twin_latents(job, shard, row), log_variance_of(job, shard, row, is_twin=True)
        return npz_bytes({"moments": torch.cat(moments), "moments_flip": torch.cat(of_twin)})


def class_folders(classes: Sequence[str], labels: Iterable[int]) -> dict[int, str]:
    """Name a folder for each of the `labels`: that of its class, or its number where names would not do."""
    present = sorted(set(labels))
    names = [classes[label] if label < len(classes) else "" for label in present]
    if names == sorted(set(names)) and all(map(_is_folder, names)):
        return dict(zip(present, names, strict=True))
    width = len(str(present[-1]))
    return {label: f"{label:0{width}d}" for label in present}


def _is_folder(name: str) -> bool:
    """Tell whether a folder can have this name."""
    try:
        return len(check_key(name).parts) == 1 and not name.startswith(".")
    except StoreError:
        return False


def _name(key: str, folder: str) -> PurePosixPath:
    return PurePosixPath(folder, f"{check_key(key).as_posix().removeprefix(f'{folder}/')}.npz")
