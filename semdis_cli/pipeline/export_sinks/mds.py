"""Exports as shards of MosaicML's `streaming`: `mds`, and what micro_diffusion reads of them.

The layout is that of its version 2: a number of samples, their places, the columns as JSON, and the samples, which are
the sizes of what has no fixed one, and the values. All numbers are little-endian.
"""

import json
import struct
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import escape_name
from semdis_cli.parts import LATENTS
from semdis_cli.pipeline.export_sinks.chunks import Chunk, ChunkSink
from semdis_cli.pipeline.export_sinks.sink import ExportJob
from semdis_cli.store.exchange.columns import Kind, json_text
from semdis_cli.store.exchange.flat import FlatField, flat_fields
from semdis_cli.store.shards import Shard

_ENCODINGS: dict[Kind, str] = {"text": "str", "int": "int", "float": "float64"}  # all else is JSON
_SIZES = {"int": 8, "float64": 8}
_GRIDS = {32: "latents_256", 64: "latents_512"}  # of an autoencoder that halves three times, not four


class MdsSink(ChunkSink):
    """Shards of samples with `key`, arrays of latents and parts, columns of the set and `record`; and their index."""

    name_format = "shard.{:05d}.mds"

    @classmethod
    def latents_name(cls, job: ExportJob) -> str:  # noqa: ARG003 # here it is one for all
        """Return what the column of the latents is called."""
        return "latents"

    def array_encoding(self, dtype: str) -> str:
        """Return how the column of an array is encoded."""
        return f"ndarray:{dtype}"

    def encode_array(self, data: bytes, shape: Sequence[int]) -> bytes:
        """Return an array as its column holds it: its shape stands before it."""
        width = 0 if max(shape) < 1 << 8 else 1 if max(shape) < 1 << 16 else 2
        return bytes([len(shape) << 2 | width]) + np.array(shape, f"<u{1 << width}").tobytes() + data

    def write(self, shard: Shard, row: int) -> None:
        """Add an image to its shard."""
        sample, key = self.sample(shard, row), shard.keys[row]
        values = {"key": escape_name(key).encode(), "record": sample.record.to_bytes().rstrip(b"\n")}
        for name, data in {LATENTS: sample.data, **sample.parts}.items():
            values[self._array_names[name]] = self.encode_array(data, shard.tensors[name].shape[1:])
        columns = self.job.columns.of_image(key)
        values |= {field.name: _encode(field, field.value(columns)) for field in self._fields}
        fields = [values[name] for name in self._encodings]
        sizes = [len(each) for each, size in zip(fields, self._sizes, strict=True) if size is None]
        self.add(key, np.array(sizes, "<u4").tobytes() + b"".join(fields))

    def head(self) -> bytes:
        """Return the columns, and how they are encoded."""
        return json.dumps(self._config, sort_keys=True).encode()

    def index(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the index of shards."""
        shards = [
            {
                **self._config,
                "samples": chunk.num_rows,
                "raw_data": {"basename": chunk.name, "bytes": chunk.num_bytes, "hashes": {}},
                "zip_data": None,
            }
            for chunk in chunks
        ]
        return json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode()

    @cached_property
    def _array_names(self) -> dict[str, str]:
        """Return what the column of each array is called."""
        return {name: self.latents_name(self.job) if name == LATENTS else name for name in self.dtypes}

    @cached_property
    def _fields(self) -> list[FlatField]:
        return flat_fields(self.job.columns, ("key", "record", *self._array_names.values()))

    @cached_property
    def _encodings(self) -> dict[str, str]:
        """Return the encoding of each column, in the order in which a sample has them: by name."""
        arrays = {self._array_names[name]: self.array_encoding(dtype) for name, dtype in self.dtypes.items()}
        columns = {field.name: _ENCODINGS.get(field.kind, "json") for field in self._fields}
        return dict(sorted({"key": "str", "record": "json", **arrays, **columns}.items()))

    @cached_property
    def _sizes(self) -> list[int | None]:
        return [_SIZES.get(encoding) for encoding in self._encodings.values()]

    @cached_property
    def _config(self) -> dict[str, Any]:
        return {
            "version": 2,
            "format": "mds",
            "compression": None,
            "hashes": [],
            "size_limit": self.job.settings.tar_mib * 2**20,
            "column_names": [*self._encodings],
            "column_encodings": [*self._encodings.values()],
            "column_sizes": self._sizes,
        }


class MicroDiffusionSink(MdsSink):
    """Shards in which latents are bytes of float16, in the column that micro_diffusion takes for their grid."""

    @classmethod
    def name_files(cls, job: ExportJob) -> Mapping[str, PurePosixPath]:
        """Look whether the latents are of a grid that it reads."""
        height, width = job.facts.one_grid("micro_diffusion")
        if job.source.keys and (height != width or height not in _GRIDS):
            patch_size = job.source.provenance.layout.patch_size
            sizes = " or ".join(str(grid * patch_size) for grid in _GRIDS)
            what = f"holds latents of {height}x{width}, but micro_diffusion reads 32x32 or 64x64, and others wrongly"
            raise UsageError(f"{what}; encode squares with --size {sizes}", place=job.source.path)
        return super().name_files(job)

    @classmethod
    def latents_name(cls, job: ExportJob) -> str:
        """Return the column that it takes for the grid of the latents."""
        return _GRIDS.get(job.facts.one_grid("micro_diffusion")[0], "latents_256")

    @classmethod
    def parts(cls, job: ExportJob) -> Collection[str]:  # noqa: ARG003 # whatever there is
        """Return nothing: it reads latents alone."""
        return ()

    def array_encoding(self, dtype: str) -> str:  # noqa: ARG002 # here it is one for all
        """Return how the column of the latents is encoded."""
        return "bytes"

    def encode_array(self, data: bytes, shape: Sequence[int]) -> bytes:  # noqa: ARG002 # the reader knows it
        """Return latents as their column holds them."""
        return data


def _encode(field: FlatField, value: Any) -> bytes:
    """Return the value of a column of the set as MDS holds it."""
    if field.kind == "text":
        return str(value).encode()
    if field.kind in {"int", "float"}:
        return struct.pack("<q" if field.kind == "int" else "<d", value)
    return json_text(value).encode()
