"""What a run is asked to encode, as plain values: a plan that was made before is for what was asked for then."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import UsageError
from semdis_cli.files.json_text import escape_name
from semdis_cli.files.url import Location, Url
from semdis_cli.option import OptionError
from semdis_cli.settings import EncodeSettings, LoadSettings, SourceSettings
from semdis_cli.sources.braces import expand_braces
from semdis_cli.sources.input_rules import InputRules
from semdis_cli.sources.named import NamedSources
from semdis_cli.sources.spool import STDIN


@dataclass(frozen=True)
class Request:
    """What a run is asked to encode: its `sources`, and the `table` that was named.

    `record`: all that decides its plan beyond the provenance, the settings that decide the bytes of latents.
    """

    sources: NamedSources
    table: Path | None
    record: Mapping[str, Any]

    @classmethod
    def of(cls, named: SourceSettings, rules: InputRules, load: LoadSettings, settings: EncodeSettings) -> "Request":
        """Return that of a command; its options go by what users call them."""
        filters, columns, shards = settings.filters, settings.columns, settings.shards
        record = {
            "SOURCE": list(map(_absolute, named.sources)),
            "--files-from": named.files_from,
            "--exclude": [pattern.text for pattern in rules.exclude],
            "--include": [pattern.text for pattern in rules.include],
            "--all-files": rules.all_files,
            "--min-size": filters.min_size,
            "--max-aspect": filters.max_aspect,
            "--no-upscale": filters.no_upscale,
            "--dedupe": filters.dedupe,
            "--crops": load.crops.number,
            "--captions": columns.captions,
            "--caption-lines": columns.caption_lines,
            "--labels": columns.labels,
            "--columns": columns.columns,
            "--table": None if columns.table is None else _absolute(columns.table),
            "--on": columns.on,
            "--masks": None if settings.latents.masks is None else _absolute(settings.latents.masks),
            "--shard-size": shards.shard_mib,
            "--shard-images": shards.shard_images,
        }
        return cls(NamedSources(expand_braces(named.sources)), columns.table, record)

    def check(self) -> None:
        """Raise `UsageError` for what each run has to look for by itself."""
        if STDIN in self.sources.locations:
            raise UsageError("-: what comes on stdin can be read once; a plan is of files: write it into one")
        if self.record["--files-from"] is not None:
            raise OptionError("--files-from", "does not go with a plan; name the folder that the files lie in")


def _absolute(path: Location) -> str:
    return str(path) if isinstance(path, Url) else escape_name(str(path.absolute()))
