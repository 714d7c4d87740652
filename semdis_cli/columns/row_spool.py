"""Rows of tables in a temporary file, as they go into an index; found by the keys of images, whole or without suffix.

Of a row there is in memory where it lies, and whether an image took it: 35 bytes.
"""

import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from json.encoder import encode_basestring_ascii

import numpy as np

from semdis_cli.columns.row_texts import RowText
from semdis_cli.columns.spool import Spool
from semdis_cli.store.columns import LABEL

NO_LABEL = -1
UNUSED, USED, SECOND = range(3)


# A row as it was added: its number among all, its label, the names of its columns with that, and the text of these
# before and after the label, commas included. A plain tuple: a named one takes as long as all the rest.
SpooledRow = tuple[int, int, tuple[str, ...], bytes, bytes]


class RowSpool:
    """Rows of tables, in their order. First all are added, then it is finished, then they are found.

    `outcomes`: for each row whether an image took it (`USED`), or none did because it has another one (`SECOND`).
    """

    def __init__(self) -> None:
        self.outcomes = bytearray()
        self._spool = Spool()
        self._hashes, self._inner_hashes, self._starts = array("q"), array("q"), array("Q")
        self._names: dict[
            tuple[tuple[str, ...], bool], int
        ] = {}  # of columns, less the label, and whether there is one
        self._prefixes: list[str] = []
        self._first_rows: list[int] = []  # of each table
        self._folders: frozenset[str] = frozenset()

    @property
    def num_bytes(self) -> int:
        """Bytes that the rows take on the disk."""
        return self._spool.num_bytes

    def begin_table(self, stem: str) -> None:
        """Begin with the rows of another table. They are about images by what they say, or by that after `stem/`."""
        self._prefixes.append(f"{stem}/")
        self._first_rows.append(len(self.outcomes))

    def add(self, numbers: Sequence[int], keys: Sequence[str], texts: Sequence[RowText], labels: Sequence[int]) -> None:
        """Add rows of the table that was begun last: their numbers there, and what each says its image is."""
        for names in {(text[3], label != NO_LABEL) for text, label in zip(texts, labels, strict=True)}:
            self._names.setdefault(names, len(self._names))
        spelled = keys if "".join(keys).isprintable() and '"' not in "".join(keys) else map(_spell, keys)
        facts = zip(numbers, spelled, texts, labels, strict=True)
        rows = [
            f"{number}\t{label}\t{self._names[names, label != NO_LABEL]}\t{around}\t{key}".encode()
            for number, key, (before, _, after, names, _), label in facts
            for around in (_around(before, after, label),)
        ]
        self._starts.extend(accumulate(map(len, rows[:-1]), initial=self._spool.num_bytes))
        self._hashes.extend(map(hash, keys))
        self._inner_hashes.extend(map(hash, map(self._prefixes[-1].__add__, keys)))
        self.outcomes.extend(bytes(len(rows)))
        self._spool.add(b"".join(rows))

    def finish(self) -> None:
        """Make the rows ready to be found."""
        self._spool.finish()
        self._starts.append(self._spool.num_bytes)
        self._all_names = [(*names, LABEL) if has_label else names for names, has_label in self._names]
        self._folders = frozenset(prefix[:-1] for prefix in self._prefixes)
        hashes = np.concatenate([np.array(self._hashes, np.int64), np.array(self._inner_hashes, np.int64)])
        del self._hashes, self._inner_hashes
        order = np.argsort(hashes, kind="stable")
        self._sorted, self._rows = hashes[order], (order % max(1, len(self.outcomes))).astype(np.uint32)
        self._has_next = np.zeros(len(hashes) + 1, dtype=bool)  # whether another one follows with the same hash
        self._has_next[: max(0, len(hashes) - 1)] = self._sorted[1:] == self._sorted[:-1]

    def find(self, keys: Sequence[str]) -> list[Sequence[SpooledRow]]:
        """Return for each key the rows that are about its image, in their order."""
        found = self._find(keys)
        for probe in (stem_of, self._within_table, self._stem_within_table):
            left = [at for at, rows in enumerate(found) if not rows]
            for at, rows in zip(left, self._find([probe(keys[at]) for at in left]) if left else (), strict=True):
                found[at] = rows
        return found

    def place(self, row: int) -> tuple[str, int, int]:
        """Return of a row what it says its image is, its table, and its number there."""
        number, *_, key = self._read([row])[0]
        return _unspell(key), self._table_of(row), int(number)

    def _find(self, probes: Sequence[str]) -> list[Sequence[SpooledRow]]:
        """Return the rows that have one of their two keys among `probes`."""
        if not self.outcomes:
            return [()] * len(probes)
        hashes = np.fromiter(map(hash, probes), np.int64, len(probes))
        places = np.searchsorted(self._sorted, hashes)
        is_there = self._sorted.take(places, mode="clip") == hashes
        pairs = zip(self._rows.take(places, mode="clip").tolist(), is_there.tolist(), strict=True)
        candidates: list[Sequence[int]] = [[row] if there else [] for row, there in pairs]
        for at in np.flatnonzero(is_there & self._has_next[places]).tolist():
            end = int(np.searchsorted(self._sorted, hashes[at], "right"))
            candidates[at] = sorted(self._rows[int(places[at]) : end].tolist())
        texts, all_names = iter(self._read(list(chain.from_iterable(candidates)))), self._all_names
        found: list[Sequence[SpooledRow]] = []
        for probe, rows in zip(probes, candidates, strict=True):
            about: list[SpooledRow] = []
            for row in rows:
                _, label, names, before, after, key = next(texts)
                if key.decode() == probe or self._is_about(row, key, probe):
                    about.append((row, int(label), all_names[int(names)], before, after))
            found.append(about)
        return found

    def _is_about(self, row: int, key: bytes, probe: str) -> bool:
        text = _unspell(key)
        return probe in {text, self._prefixes[self._table_of(row)] + text}

    def _read(self, rows: Sequence[int]) -> list[list[bytes]]:
        """Return what was written of some rows, in parts."""
        if rows and rows[-1] - rows[0] == len(rows) - 1 and rows == [*range(rows[0], rows[-1] + 1)]:  # of one stretch
            first, *ends = self._starts[rows[0] : rows[-1] + 2]
            data = self._spool.read(first, ends[-1])
            return [data[start - first : end - first].split(b"\t") for start, end in pairwise([first, *ends])]
        return [self._spool.read(self._starts[row], self._starts[row + 1]).split(b"\t") for row in rows]

    def _table_of(self, row: int) -> int:
        return bisect_right(self._first_rows, row) - 1

    def _within_table(self, key: str) -> str:
        """Return a key from the folder on that has the name of a table, if it is not the first one; else nothing."""
        start = key.find("/") + 1
        while start and (end := key.find("/", start)) > 0:
            if key[start:end] in self._folders:
                return key[start:]
            start = end + 1
        return ""

    def _stem_within_table(self, key: str) -> str:
        return stem_of(self._within_table(key))


def stem_of(key: str) -> str:
    """Return a key without the suffix of its last part."""
    dot = key.rfind(".")
    return key[:dot] if dot > key.rfind("/") + 1 else key


def _around(before: str, after: str, label: int) -> str:
    """Return the texts before and after a label, with commas beside that; without one it is all before."""
    if label == NO_LABEL:
        return f"{before},{after}\t" if before and after else f"{before}{after}\t"
    return f"{before}{before and ','}\t{after and ','}{after}"


def _spell(key: str) -> str:
    """Return a key as it stands, or as JSON where it would break a row."""
    is_plain = key.isprintable() and not key.startswith('"')  # half a character is not printable
    return key if is_plain else encode_basestring_ascii(key)


def _unspell(data: bytes) -> str:
    text = data.decode()
    return text if not text.startswith('"') else str(json.loads(text))
