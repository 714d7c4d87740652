"""The end of a set whose parts were encoded by several processes, by hand: where the last of them could not do it."""

from collections.abc import Iterator
from pathlib import Path

from semdis_cli.events import Event, Planning
from semdis_cli.pipeline.report import RunTotals
from semdis_cli.store.writing.finish_set import finish_by_journal


def finish(latents: Path) -> Iterator[Event]:
    """Write index, checksums and manifest of the set in `latents`. Raises what `finish_by_journal` raises."""
    totals = RunTotals("finish", None)
    yield Planning("writing the index")
    manifest = finish_by_journal(latents)
    yield totals.finish(latents, num_ok=manifest.num_ok, num_failed=manifest.num_failed, **manifest.figures())
