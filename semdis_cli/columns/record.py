"""Where the columns of a run come from, as plain values of JSON, and back: what a plan in a file has of them.

As of images, files are named by the sources that they lie in, or are the table that the user named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.columns.labels import Labels
from semdis_cli.columns.maker import Column, Columns
from semdis_cli.columns.providers import SIDECARS, BesideImages, Provider, TableRows, TopFolders
from semdis_cli.columns.table import TableFile, open_tables
from semdis_cli.columns.values import as_caption, as_captions, check_value
from semdis_cli.files.json_text import escape_name, unescape_name
from semdis_cli.sources.named import FilePlace, NamedSources
from semdis_cli.sources.plain_values import check_flag
from semdis_cli.store.checks import check_count, check_object, check_text, check_texts
from semdis_cli.store.columns import check_column_name

_MAKERS: Mapping[str, Callable[[Any], Any]] = {"caption": as_caption, "captions": as_captions, "value": check_value}


@dataclass(frozen=True)
class RecordedColumns:
    """The form of columns in a plan. `sources`, `table`: those that the user of the run named."""

    sources: NamedSources
    table: Path | None

    def describe(self, columns: Columns) -> dict[str, Any]:
        """Return columns as plain values, but for the classes, which the plan has."""
        providers: list[Provider] = [*dict.fromkeys(column.provider for column in columns.columns)]
        return {
            "note": columns.note,
            "providers": [self._describe_provider(provider) for provider in providers],
            "columns": [
                {
                    "name": column.name,
                    "provider": providers.index(column.provider),
                    "field": column.field,
                    "make": _describe_maker(column.make),
                    "is_needed": column.is_needed,
                }
                for column in columns.columns
            ],
        }

    def read(self, fields: Mapping[str, Any], classes: tuple[str, ...]) -> Columns:
        """Return the columns again, of which the tables are opened; nothing is told of rows for no image.

        Raises one of `MALFORMED` for what stands for none, and what `open_tables` raises.
        """
        providers = [self._read_provider(check_object(each)) for each in fields["providers"]]
        columns = [
            Column(
                check_column_name(each["name"]),
                providers[check_count(each["provider"])],
                check_text(each["field"]),
                _read_maker(each["make"], classes),
                check_flag(each["is_needed"]),
            )
            for each in fields["columns"]
        ]
        return Columns(tuple(columns), classes, check_text(fields["note"]))

    def _describe_provider(self, provider: Provider) -> dict[str, Any]:
        match provider:
            case TableRows():
                files, name, on = provider.table.opened
                return {
                    "kind": "table",
                    "files": list(map(self._describe_file, files)),
                    "name": escape_name(name),
                    "on": on,
                }
            case BesideImages():
                return {"kind": "beside", "suffixes": list(provider.suffixes)}
            case TopFolders():
                return {"kind": "folders", "prefixes": sorted(map(escape_name, provider.prefixes))}
        raise AssertionError(f"{provider} is no place where columns come from")

    def _read_provider(self, fields: dict[str, Any]) -> Provider:
        match fields["kind"]:
            case "table":
                on = None if fields["on"] is None else check_text(fields["on"])
                files = [self._read_file(check_object(each)) for each in fields["files"]]
                return TableRows(open_tables(files, unescape_name(check_text(fields["name"])), on))
            case "beside":
                suffixes = check_texts(fields["suffixes"])
                if not {*suffixes} <= {*SIDECARS}:
                    raise ValueError(f"{suffixes!r:.80} lie beside no image")
                return BesideImages(suffixes)
            case "folders":
                return TopFolders(frozenset(map(unescape_name, check_texts(fields["prefixes"]))))
        raise ValueError(f"{fields['kind']!r:.40} is no place where columns come from")

    def _describe_file(self, file: TableFile) -> dict[str, Any]:
        """Describe a file of a table: that which was named, or one that lies in a source."""
        prefix = {"prefix": escape_name(file.prefix)} if file.prefix else {}
        if file.path == self.table:
            return prefix
        source, inside = self.sources.find(file.path)
        return {"source": source, "inside": escape_name(inside)} | prefix

    def _read_file(self, fields: dict[str, Any]) -> TableFile:
        prefix = unescape_name(check_text(fields.get("prefix", "")))
        if "source" not in fields:
            if self.table is None:
                raise ValueError("no table is named")
            return TableFile(self.table, prefix)
        inside = unescape_name(check_text(fields["inside"]))
        path = self.sources.path(FilePlace(check_count(fields["source"]), inside))
        if not isinstance(path, Path):
            raise ValueError("a table in a store")  # noqa: TRY004 (one kind of error for all that is malformed)
        return TableFile(path, prefix)


def _describe_maker(make: Callable[[Any], Any]) -> dict[str, Any]:
    if isinstance(make, Labels):
        return {"labels": None if make.places is None else list(make.places), "are_names": make.are_names}
    return {"kind": next(name for name, each in _MAKERS.items() if each is make)}


def _read_maker(fields: Any, classes: tuple[str, ...]) -> Callable[[Any], Any]:
    if "labels" not in check_object(fields):
        return _MAKERS[fields["kind"]]
    places = None if fields["labels"] is None else tuple(map(check_count, fields["labels"]))
    return Labels(classes, places, check_flag(fields["are_names"]))
