"""`SHA256SUMS`: what `sha256sum -c` reads, held against the manifest."""

import re
from collections.abc import Generator, Iterator

from semdis_cli.errors import StoreError
from semdis_cli.events import Problem
from semdis_cli.files.set_names import CHECKSUM_FILE, COLUMN_FOLDER, MANIFEST_FILE, SHARD_FOLDER
from semdis_cli.files.url import Location
from semdis_cli.store.latent_set import LatentSet
from semdis_cli.store.shard_header import open_regular
from semdis_cli.store.tensors.listed import tensor_files

_CHECKSUM = re.compile(rb"([0-9a-f]{64})  ([!-~]+)\n")
_MAX_LINE_BYTES = 1 << 12


def check_checksums(latents: LatentSet) -> Iterator[Problem]:
    """Hold `SHA256SUMS` against the manifest."""
    root, manifest = latents.root, latents.manifest
    expected = {MANIFEST_FILE: latents.sha256}
    expected |= {piece.name: piece.file.sha256 for piece in manifest.index_files.pieces}
    expected |= {f"{SHARD_FOLDER}/{shard.name}": shard.file.sha256 for shard in manifest.shards}
    expected |= {f"{COLUMN_FOLDER}/{file.name}": file.file.sha256 for _, _, file in tensor_files(manifest.tensors)}
    try:
        found = yield from read_checksums(root)
    except StoreError as error:
        yield Problem(CHECKSUM_FILE, "checksums", error.beside(root / CHECKSUM_FILE))
        return
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            what = "is not listed" if name not in found else "has another sha256 than in the manifest"
            what = "is listed, but is no part of the set" if name not in expected else what
            yield Problem(CHECKSUM_FILE, "checksums", f"{name} {what}")


def read_checksums(root: Location) -> Generator[Problem, None, dict[str, str]]:
    """sha256 by name, as listed. Raises `StoreError` if the file cannot be read."""
    found: dict[str, str] = {}
    with open_regular(root / CHECKSUM_FILE) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            match = _CHECKSUM.fullmatch(line)
            if match is None or match[2].decode() in found:
                yield Problem(CHECKSUM_FILE, "checksums", f"line {number:,} is none of ours; damaged or edited")
            else:
                found[match[2].decode()] = match[1].decode()
    return found
