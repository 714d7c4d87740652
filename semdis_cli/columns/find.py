"""Which columns the images of a run get: what was asked for, and what is found by itself where it is plain."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from semdis_cli.columns.labels import Labels, named_numbers, numbers, texts
from semdis_cli.columns.maker import Column, Columns
from semdis_cli.columns.providers import SIDECARS, BesideImages, Provider, TableRows, TopFolders, spread
from semdis_cli.columns.table import Table, TableFile, open_table, open_tables
from semdis_cli.columns.table_file import KEY_COLUMNS
from semdis_cli.columns.values import as_caption, as_captions, check_value, label_number
from semdis_cli.errors import UsageError
from semdis_cli.events import Planning, Tell, untold
from semdis_cli.records import ClassSource, SourceImage
from semdis_cli.settings import AUTO, FOLDERS, NONE, ColumnSettings
from semdis_cli.sources.find import FoundImages
from semdis_cli.stops import looking
from semdis_cli.store.columns import CAPTION, LABEL, SetColumns
from semdis_cli.wording import count

CAPTION_NAMES = ("caption", "captions", "text", "txt")  # by which captions are known, the best first
LABEL_NAMES = (LABEL, "cls")
_LOOKED_AT = 256  # images that tell what lies beside all
_IN_CLASS_FOLDER = re.compile(r"n[0-9]{8}/[^/]+")  # as ImageNet has it
_IN_DEEP_CLASS_FOLDER = re.compile(r"(.+)/n[0-9]{8}/[^/]+")


def find_columns(
    found: FoundImages,
    settings: ColumnSettings,
    images: Sequence[SourceImage],
    known: SetColumns | None = None,
    tell: Tell = untold,
) -> Columns:
    """Find the columns of `images`, which are going to be read, of all that were `found`.

    `known`: the columns of the set that they are added to; they get no others. None: it is a new one. Raises
    `UsageError` for what was asked for and is nowhere, and for a table that is none; `MissingExtraError`.
    """
    is_open = known is None or bool(known) or settings.is_explicit
    if not (settings.is_any and is_open and images):
        return Columns(note="" if known is None else _describe_lacking(settings, known))
    return _Search(found, settings, images, known, tell).run()


def _describe_lacking(settings: ColumnSettings, known: SetColumns) -> str:
    """Say what was asked for and the set lacks, where no new image can bring it; nothing if it lacks nothing."""
    ways = (("captions", CAPTION, settings.captions), ("labels", LABEL, settings.labels))
    asked = [*ways, *((f"column {name!r}", name, name) for name in settings.column_names)]
    lacking = [what for what, name, wanted in asked if wanted not in {AUTO, NONE} and name not in known.num_images]
    if settings.table is not None and not (lacking or known):
        lacking = [f"columns, as in {settings.table.name}"]
    return f"the set has no {', '.join(lacking)}: semdis attach adds them" if lacking else ""


@dataclass
class _Search:
    """Search for the columns of a run, and what is to be told of it."""

    found: FoundImages
    settings: ColumnSettings
    images: Sequence[SourceImage]
    known: SetColumns | None
    tell: Tell
    news: list[str] = field(default_factory=list)  # of what is found by itself
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    beside: BesideImages = field(default_factory=BesideImages)

    def run(self) -> Columns:
        """Return what makes the columns."""
        columns = [*self._captions(), *self._labels()]
        columns += self._others({column.field for column in columns})
        used = [column.provider for column in columns]
        providers: list[Provider] = [provider for provider in self.providers if provider in used]
        columns.sort(key=lambda column: providers.index(column.provider))
        if self.settings.table is not None and not (columns or self.notes) and self.known is not None:
            what = f"the set has no column that {self.settings.table.name} has"
            self.notes.append(f"{what}: new images get none, semdis attach adds them to all")
        tables = tuple(rows.table for rows in self.tables if rows in used)
        if self.news:
            where = "--captions none, --labels none or --columns none leaves them out"
            self.notes.insert(0, f"found {', '.join(self.news)}; {where}")
        return Columns(tuple(self._narrowed(columns)), self.classes, "; ".join(self.notes), tables)

    # ---- Places to look at ----

    @cached_property
    def sample(self) -> list[SourceImage]:
        """Some of the images, spread over all."""
        return spread(self.images, _LOOKED_AT)

    @cached_property
    def tables(self) -> list[TableRows]:
        """The table that was named, and those that were found."""
        tables = [] if self.settings.table is None else [self._named_table()]
        return [TableRows(table) for table in (*tables, *self._found_tables())]

    @cached_property
    def folders(self) -> TopFolders:
        """The folders at the top of each source."""
        return TopFolders(frozenset(origin.prefix for origin in self.found.origins))

    @property
    def providers(self) -> tuple[Provider, ...]:
        """All places, in the order in which they are asked."""
        return (*self.tables, self.beside, self.folders)

    def _named_table(self) -> Table:
        assert self.settings.table is not None
        self.tell(Planning(f"reading {self.settings.table.name}"))
        table = open_table(self.settings.table, self.settings.on)
        if table.first_key is None:
            raise UsageError("has no row that can be read", place=self.settings.table)
        if not table.has_any(self.found.all_keys()):
            key = self.images[0].key
            what = f"no row is about an image: the first one says {table.first_key!r:.80}, and an image is {key!r:.80}"
            raise UsageError(what, place=self.settings.table)
        return table

    def _found_tables(self) -> Iterator[Table]:
        """Yield the tables in the sources that are good for something, those of one name as one; the rest is told."""
        by_name: dict[str, list[TableFile]] = {}
        for origin in self.found.origins:
            folder = origin.path or Path()
            for inside in origin.tables:
                file = TableFile(folder / inside, origin.prefix + inside[: inside.rfind("/") + 1])
                by_name.setdefault(file.path.name, []).append(file)
        for name, files in sorted(by_name.items(), reverse=True):  # what is called metadata first
            self.tell(Planning(f"reading {name}"))
            try:
                table = open_tables(files, name)
            except UsageError as error:  # nobody asked for it
                self.notes.append(f"not used: {error}")
                continue
            if table.has_any(self.found.all_keys()):
                yield table

    # ---- Columns ----

    def _captions(self) -> Iterator[Column]:
        wanted = self.settings.captions
        if not self._is_welcome(CAPTION, wanted, "captions"):
            return
        chosen = self._choose(wanted, CAPTION_NAMES, "--captions", _is_caption)
        if chosen is None:
            self._tell_missing("captions")
            return
        provider, name = chosen
        make = as_captions if self.settings.caption_lines else as_caption
        yield Column(CAPTION, provider, name, make, is_needed=True)
        self._tell_found(wanted, f"captions ({provider.describe(name)})")

    def _labels(self) -> Iterator[Column]:
        wanted = self.settings.labels
        if not self._is_welcome(LABEL, wanted, "labels"):
            return
        chosen = None if wanted == FOLDERS else self._choose(wanted, LABEL_NAMES, "--labels", self._is_label)
        if chosen is None and (wanted == FOLDERS or self._has_class_folders()):
            chosen = self.folders, FOLDERS
        if chosen is None:
            self._tell_missing("labels")
            self._tell_deep_folders()
            return
        labels = self._numbering(*chosen)
        self._tell_classes(labels)
        self.classes = labels.classes
        provider, name = chosen
        yield Column(LABEL, provider, name, labels, is_needed=True)
        of_classes = f" of {count(len(labels.classes), 'class', 'classes')}" if labels.classes else ""
        self._tell_found(wanted, f"labels{of_classes} ({provider.describe(name)})")

    def _others(self, used: set[str]) -> Iterator[Column]:
        """Yield the other columns; those that are `used` already are only given if they are asked for."""
        if self.settings.columns == NONE:
            return
        if self.settings.columns == AUTO:
            kept_out = {CAPTION, LABEL, *KEY_COLUMNS, *used}
            for rows in self.tables:
                names = [name for name in rows.table.columns if name not in kept_out and self._is_known(name)]
                yield from (Column(name, rows, name, check_value) for name in names)
                kept_out |= {*names}
                if names:
                    self._tell_found(AUTO, f"{', '.join(names)} in {rows.table.name}")
            return
        for name in self.settings.column_names:
            if self._is_welcome(name, name, f"column {name!r}"):
                chosen = self._choose(name, (), "--columns", _is_any)
                assert chosen is not None, "what was asked for is found, or refused"
                yield Column(name, chosen[0], name, check_value)

    def _is_known(self, name: str) -> bool:
        return self.known is None or name in self.known.num_images

    def _is_welcome(self, name: str, wanted: str, what: str) -> bool:
        """Tell whether images are to get a column: if it is wanted, and the set that they are added to has it."""
        if wanted == NONE:
            return False
        if not self._is_known(name) and wanted != AUTO:
            self.notes.append(f"the set has no {what}: new images get none, semdis attach adds them to all")
        return self._is_known(name)

    def _choose(
        self, wanted: str, names: Sequence[str], flag: str, accepts: Callable[[Any], bool]
    ) -> tuple[Provider, str] | None:
        """Return the first place that has what is wanted, and its name there; None if nothing is found by itself.

        By itself it is found in a new set only if all images of the sample have it. Raises `UsageError`.
        """
        is_plain = wanted == AUTO and self.known is None
        for name in names if wanted == AUTO else (wanted,):
            for rows in self.tables:
                if name in rows.table.columns:
                    return rows, name
        for name in names if wanted == AUTO else (wanted,):
            found = (accepts(value) for value in self._values(self.beside, self.sample, name))
            if all(found) if is_plain else any(found):
                return self.beside, name
        if wanted == AUTO:
            return None
        tables = [f"in {rows.table.name}" for rows in self.tables]
        where = ", nor ".join([*tables, f"beside any of {count(len(self.sample), 'image')} that were looked at"])
        there = ", ".join(map(repr, self.beside.names(self.sample[0])))
        raise UsageError(f"{flag} {wanted}: there is no such thing {where}{there and f' (but {there:.200})'}")

    @staticmethod
    def _values(provider: Provider, images: Iterable[SourceImage], name: str) -> Iterator[Any]:
        """Yield what each image has under a name: None if there is nothing, and an error for what is unreadable."""
        for image in looking(images):
            try:
                yield provider.look(image).get(name)
            except ValueError as error:
                yield error

    # ---- Labels ----

    def _numbering(self, provider: Provider, name: str) -> Labels:
        """Return what makes labels of the values of that name."""
        known = self.known or SetColumns()
        names = self._class_names(provider, name)
        if names is not None:
            return named_numbers(names, known)
        if isinstance(provider, TopFolders):
            return texts({provider.name_of(key) for key in self.found.all_keys()}, known)
        if any(isinstance(value, str) and _is_name(value) for value in self._values(provider, self.sample, name)):
            return texts(self._all_values(provider, name), known)
        return numbers(known)

    def _all_values(self, provider: Provider, name: str) -> Iterator[Any]:
        if isinstance(provider, TableRows):
            return provider.table.values(name)
        self.tell(Planning("reading labels"))
        return self._values(provider, looking(self.images), name)

    def _class_names(self, provider: Provider, name: str) -> Sequence[str] | None:
        """Return the names of the numbers in a column. Raises `UsageError` if two sources name them differently."""
        if isinstance(provider, TableRows):
            return provider.table.classes.get(name)
        if provider is not self.beside or not isinstance(self.images[0].reader, ClassSource):
            return None
        readers = {id(image.reader): image.reader for image in self.images}.values()
        named = {tuple(reader.class_names(name) or ()) for reader in readers if isinstance(reader, ClassSource)}
        if len(named) > 1:
            raise UsageError(
                f"the sources name the classes of {name!r:.60} differently: encode each into a set of its own"
            )
        return named.pop() or None

    def _is_label(self, value: Any) -> bool:
        """Tell whether a value is plainly a label: a number, or if labels were asked for also a name."""
        try:
            return value is not None and (label_number(value) is not None or self.settings.labels != AUTO)
        except ValueError:
            return False

    def _has_class_folders(self) -> bool:
        """Tell whether folders are the classes, without having been said: those of ImageNet, or of the set."""
        if self.known is not None:
            classes = {*self.known.classes}  # looked for in all, for the new images may all be of a new class
            return bool(classes) and any(self.folders.name_of(key) in classes for key in looking(self.found.all_keys()))
        first = {self.folders.name_of(key) for key in islice(self.found.all_keys(), 1)}
        is_class = _IN_CLASS_FOLDER.fullmatch
        if not all(is_class(self.folders.rest_of(key)) for key in looking(self.found.all_keys())):
            return False
        return any(self.folders.name_of(key) not in first for key in self.found.all_keys())

    # ---- What is told ----

    def _tell_found(self, wanted: str, what: str) -> None:
        if wanted == AUTO:
            self.news.append(what)

    def _tell_missing(self, what: str) -> None:
        if self.known is not None:
            missing = f"no {what} were found for the new images, though the set has some"
            self.notes.append(f"{missing}: semdis attach adds them")

    def _tell_classes(self, labels: Labels) -> None:
        before = len(self.known.classes) if self.known is not None else 0
        if before and len(labels.classes) > before:
            names = ", ".join(map(repr, labels.classes[before : before + 3]))
            new = count(len(labels.classes) - before, "new class", "new classes")
            self.notes.append(f"{new} at the end, from {before:,} on ({names:.100})")
        if self.settings.labels == FOLDERS and len(labels.classes) == 1:
            where = "folders at the top of a source are the classes"
            self.notes.append(f"all labels are of one class, {labels.classes[0]!r:.60}: {where}")

    def _tell_deep_folders(self) -> None:
        """Tell where ImageNet's folders lie if the source that was named is one above them."""
        deep = _IN_DEEP_CLASS_FOLDER.fullmatch(self.folders.rest_of(self.sample[0].key))
        if deep and self.known is None:
            self.notes.append(f"no labels: ImageNet's folders lie in {deep[1]!r:.80}; name that folder for its classes")

    def _narrowed(self, columns: Sequence[Column]) -> Iterator[Column]:
        """Yield the columns; of what lies beside files only that is read for them which they need."""
        names = {column.field for column in columns if column.provider is self.beside}
        has_fields = not names <= {"txt", "cls"}
        narrow = BesideImages(tuple(name for name in SIDECARS if name in names or (name == "json" and has_fields)))
        for column in columns:
            yield replace(column, provider=narrow) if column.provider is self.beside else column


def _is_caption(value: Any) -> bool:
    try:
        return value is not None and as_caption(value) is not None
    except ValueError:
        return isinstance(value, ValueError)  # it is there, if unreadable


def _is_any(value: Any) -> bool:
    return value is not None


def _is_name(value: str) -> bool:
    return not value.isdigit()
