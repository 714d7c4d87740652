"""Exports as EDM2 reads them: `edm2`, a folder of means and standard deviations, numbered.

Layout: https://github.com/NVlabs/edm2, `training/dataset.py`. REPA reads the same folder as its `vae-sd`.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath

import torch

from semdis_cli.errors import UsageError
from semdis_cli.files.atomic import publish
from semdis_cli.pipeline.export_sinks.raw import RawFileSink, check_std, raw_latents, std_of, std_parts
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.exchange.arrays import npy_bytes
from semdis_cli.store.shards import Shard

LABEL_FILE = "dataset.json"
_READER = "EDM2"


class Edm2Sink(RawFileSink):
    """`00000/img-mean-std-00000000.npy`, [2Z,h,w] float32: the number is the place of the key among all of the set.

    The labels come first: without them that reader would take a folder that is not complete for one without labels.
    """

    num_tensors = 2

    def __init__(self, job: ExportJob, names: Mapping[str, PurePosixPath]) -> None:
        super().__init__(job, names)
        if job.facts.labels:
            self.failures = [*self.failures, *job.facts.unlabelled(_READER)]
        if not (job.output / LABEL_FILE).is_file():
            publish(job.output / LABEL_FILE, _label_chunks(names, job.facts.labels))

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Name the file of each key; where any has a label, of those that have one: without, it would drop them all."""
        height, width = job.facts.one_grid(_READER)
        if height != width:
            what = f"holds latents of {height}x{width}, but {_READER} reads square ones; encode with --size"
            raise UsageError(what, place=job.source.path)
        check_std(job, _READER)
        labels = job.facts.labels
        return {key: _name(number) for number, key in enumerate(job.source.keys) if not labels or key in labels}

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:
        """Return the log-SNR of the posterior, which its deviations are made of."""
        return std_parts(job)

    @classmethod
    def note(cls, job: ExportJob) -> str:
        """Say that there are no labels."""
        return "" if job.facts.labels else f"no image has a label, so {_READER} reads a set without classes"

    def contents(self, shard: Shard, row: int) -> bytes:
        """Return the mean and the standard deviation, one behind the other."""
        return npy_bytes(torch.cat([raw_latents(self._job, shard, row), std_of(self._job, shard, row)]))


def _name(number: int) -> PurePosixPath:
    digits = f"{number:08d}"
    return PurePosixPath(digits[:5], f"img-mean-std-{digits}.npy")


def _label_chunks(names: Mapping[str, PurePosixPath], labels: Mapping[str, int]) -> Iterator[bytes]:
    """Give the bytes of the list of labels, a line each; null without any."""
    if not labels:
        yield b'{"labels": null}\n'
        return
    before = '{"labels": [\n'
    for key, name in names.items():
        yield (before + json.dumps([name.as_posix(), labels[key]])).encode()
        before = ",\n"
    yield b"\n]}\n"
