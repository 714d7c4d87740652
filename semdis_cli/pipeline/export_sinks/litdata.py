"""Exports as chunks of LitData: `litdata`.

The layout is that of its binary format: a number of items, their places, and the items, which are the sizes of their
values, and the values. What kinds these are, and their names, is in the index. Numbers are little-endian, but for the
dtype and shape of a tensor.
"""

import json
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from semdis_cli.files.json_text import escape_name
from semdis_cli.parts import LATENTS
from semdis_cli.pipeline.export_sinks.chunks import Chunk, ChunkSink
from semdis_cli.store.exchange.columns import Kind, json_text
from semdis_cli.store.exchange.flat import FlatField, flat_fields
from semdis_cli.store.shards import Shard

_DTYPES = {"float32": 1, "float16": 9}  # as it numbers them; its bfloat16 cannot be written
_FORMATS: dict[Kind, str] = {"int": "int", "float": "float", "bool": "bool"}  # all else is text
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


class LitDataSink(ChunkSink):
    """Chunks of items with `key`, tensors of `latents` and parts, the columns of the set and `record`; and their index.

    Each item has the same fields, none of which is a list: one of another length would shift those behind it.
    """

    name_format = "chunk-0-{}.bin"

    def write(self, shard: Shard, row: int) -> None:
        """Add an image to its chunk."""
        sample, key = self.sample(shard, row), shard.keys[row]
        data = {LATENTS: sample.data, **sample.parts}
        columns = self.job.columns.of_image(key)
        values = [
            escape_name(key).encode(),
            *(_tensor(dtype, shard.tensors[name].shape[1:], data[name]) for name, dtype in self.dtypes.items()),
            *(_encode(field, field.value(columns)) for field in self._fields),
            sample.record.to_bytes().rstrip(b"\n"),
        ]
        self.add(key, struct.pack(f"<{len(values)}I", *map(len, values)) + b"".join(values))

    def index(self, chunks: Sequence[Chunk]) -> bytes:
        """Return the index of chunks."""
        fields = {
            "chunks": [
                {"chunk_bytes": chunk.num_bytes, "chunk_size": chunk.num_rows, "dim": None, "filename": chunk.name}
                for chunk in chunks
            ],
            "config": self._config,
            "updated_at": self.job.source.sha256,  # copies of it are told apart by this
        }
        return json.dumps(fields, sort_keys=True).encode()

    @cached_property
    def _fields(self) -> list[FlatField]:
        return flat_fields(self.job.columns, ("key", *self.dtypes, "record"))

    @cached_property
    def _config(self) -> dict[str, Any]:
        tensors = ["tensor"] * len(self.dtypes)
        names = ["key", *self.dtypes, *(field.name for field in self._fields), "record"]
        formats = ["str", *tensors, *(_FORMATS.get(field.kind, "str") for field in self._fields), "str"]
        spec = {"type": "builtins.dict", "context": json.dumps(names), "children_spec": [_LEAF] * len(names)}
        return {
            "chunk_bytes": self.job.settings.tar_mib * 2**20,
            "chunk_size": None,
            "compression": None,
            "encryption": None,
            "data_format": formats,
            "data_spec": json.dumps([1, spec]),
            "item_loader": "PyTreeLoader",
        }


def _tensor(dtype: str, shape: Sequence[int], data: bytes) -> bytes:
    """Return a tensor as LitData holds it."""
    return struct.pack(f">{2 + len(shape)}I", _DTYPES[dtype], len(shape), *shape) + data


def _encode(field: FlatField, value: Any) -> bytes:
    """Return the value of a column of the set as LitData holds it."""
    if field.kind == "text":
        return str(value).encode()
    if field.kind in _FORMATS:
        return struct.pack({"int": "<q", "float": "<d", "bool": "<?"}[field.kind], value)
    return json_text(value).encode()
