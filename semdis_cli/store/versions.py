"""Several versions of the settings in one set: under which record a run goes on, and which of them made what."""

from collections.abc import Iterable

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Location
from semdis_cli.provenance import Difference, Provenance

_MIX_OPTION = "--mix-versions"


def choose_record(
    root: Location, on_record: Iterable[Provenance], now: Provenance, *, mix_versions: bool
) -> Provenance:
    """Return under which record a run goes on in `root`: one `on_record` that is the same as `now`, or `now` itself.

    The first of them is that of the set; the same weights keep the name that they have there. Raises `UsageError` if
    the settings are others, unless they make latents of the same kind and `mix_versions` is asked for.
    """
    records = list(on_record)
    for record in records:
        if record.is_same(now):
            return record
    if records:
        _check(root, records[0].differences(now), mix_versions=mix_versions)
    return now


def mixing_hint(differences: Iterable[Difference]) -> str:
    """Return the way out where settings differ that a set may have several of; nothing where there is none."""
    if not all(difference.may_stand for difference in differences):
        return ""
    return f", or {_MIX_OPTION} to go on with both on record"


def _check(root: Location, differences: list[Difference], *, mix_versions: bool) -> None:
    hint = mixing_hint(differences)
    if hint and mix_versions:
        return
    fixed = [difference for difference in differences if not difference.may_stand]
    why = f" ({_MIX_OPTION} does not go as far as {fixed[0].name})" if mix_versions else ""
    raise UsageError(
        f"begun with other settings ({'; '.join(map(str, differences))}); "
        f"give the same ones to continue, or another -o{hint}{why}",
        place=root,
    )
