"""Settings on record: in what two records differ, and which may stand beside each other in one set."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdis_cli.errors import UsageError
from semdis_cli.wording import count

Json = dict[str, Any]

# What a model is called, and where it lies, is no setting: its weights are known by their sha256.
_CALLED = frozenset({"name", "source", "revision"})
# What computes and reads may change while a set grows: latents differ by roundings or by a few levels of the pixels.
_MAY_DIFFER = ("compute", "preprocessing.reader", "preprocessing.resize")
_MIX_OPTION = "--mix-versions"


@dataclass(frozen=True)
class Difference:
    """A setting that differs between two records, by its name with dots, and both values as a person reads them."""

    name: str
    before: str
    now: str

    @property
    def may_stand(self) -> bool:
        """Tell whether latents of both are of one kind, so that a set may hold both."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in _MAY_DIFFER)

    def __str__(self) -> str:
        if self.name.endswith("_sha256"):  # nobody can read a hash: what matters is that it is another
            return f"{self.name.removesuffix('_sha256')}: another one (sha256 {self.before:.12} -> {self.now:.12})"
        return f"{self.name}: {self.before} -> {self.now}"


def find_differences(before: Any, now: Any, name: str = "") -> list[Difference]:
    """All settings that differ. The same weights under another name, path or revision are no difference."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [Difference(name, f"{before!s:.80}", f"{now!s:.80}")]
    if _are_models(before, now):
        return _compare_models(before, now, name)
    return [
        difference
        for inner in sorted({*before, *now})
        for difference in find_differences(before.get(inner), now.get(inner), f"{name}.{inner}" if name else inner)
    ]


def are_same(before: Any, now: Any) -> bool:
    """Tell whether two records stand for the same bytes."""
    return bool(before == now) or not find_differences(before, now)


def are_of_one_kind(before: Any, now: Any) -> bool:
    """Tell whether two records stand for latents that a set may hold both of."""
    return bool(before == now) or all(difference.may_stand for difference in find_differences(before, now))


def describe_differences(before: Any, now: Any) -> list[str]:
    """`name: before -> now` for every setting that differs between two records."""
    return list(map(str, find_differences(before, now)))


def choose_record(root: Path, on_record: Iterable[Any], now: Json, *, mix_versions: bool) -> Json:
    """The record under which a run with the settings `now` goes on in `root`: one of those `on_record`, or `now`.

    The first of them is that of the set; the same weights keep the name that they have there. Raises `UsageError` if
    the settings are others, unless they make latents of the same kind and `mix_versions` is asked for.
    """
    records = [record for record in on_record if record is not None]
    for record in records:
        if isinstance(record, dict) and are_same(record, now):
            return record
    if records:
        _check(root, find_differences(records[0], now), mix_versions=mix_versions)
    return now


def mixing_hint(differences: Iterable[Difference]) -> str:
    """The way out where settings differ that a set may have several of; nothing where there is none."""
    if not all(difference.may_stand for difference in differences):
        return ""
    return f", or {_MIX_OPTION} to go on with both on record"


def versions_of(records: Iterable[tuple[Json, int, int]]) -> list[Json]:
    """List who made how many latents, as plain values, from (record, shards, latents) of each version, first to last.

    `differs`: from the first, a line a setting.
    """
    found: list[Json] = []
    first: Json | None = None
    for record, num_shards, num_latents in records:
        first = record if first is None else first
        found.append({"shards": num_shards, "latents": num_latents, "differs": describe_differences(first, record)})
    return found


def describe_versions(versions: list[Json]) -> Iterator[str]:
    """A line for each of several versions; none for a single one."""
    for number, version in enumerate(versions if len(versions) > 1 else [], start=1):
        what = "; ".join(version["differs"]) or "the settings of the manifest"
        yield f"version {number}: {version['latents']:,} latents in {count(version['shards'], 'shard')} ({what})"


def _check(root: Path, differences: list[Difference], *, mix_versions: bool) -> None:
    hint = mixing_hint(differences)
    if hint and mix_versions:
        return
    fixed = [difference for difference in differences if not difference.may_stand]
    why = f" ({_MIX_OPTION} does not go as far as {fixed[0].name})" if mix_versions else ""
    raise UsageError(
        f"{root}: begun with other settings ({'; '.join(map(str, differences))}); "
        f"give the same ones to continue, or another -o{hint}{why}"
    )


def _are_models(before: Json, now: Json) -> bool:
    return all(isinstance(model.get("weights_sha256"), str) for model in (before, now))


def _compare_models(before: Json, now: Json, name: str) -> list[Difference]:
    """One line for two models, which names both; nothing where they are the same but for what they are called."""
    if all(before.get(inner) == now.get(inner) for inner in {*before, *now} - _CALLED):
        return []
    by = "weights" if before["weights_sha256"] != now["weights_sha256"] else "config"
    said = [f"{model.get('name')!s:.80} ({by} {model.get(f'{by}_sha256')!s:.12})" for model in (before, now)]
    return [Difference(name or "model", *said)]
