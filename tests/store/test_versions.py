"""A set that lives longer than the versions that write it: which made which shard is on record, and bytes are kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.dataset.latent_dataset import LatentDataset, MixedVersionsWarning
from semdis_cli.errors import StoreError, UsageError
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.provenance import Provenance
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from semdis_cli.store.verifying.summary import summarise
from semdis_cli.store.writing.latent_set import LatentSetWriter
from tests.store import (
    KEYS,
    PROVENANCE,
    SmallPlan,
    contents,
    edit_manifest,
    hashes_of,
    problems,
    write_next,
    write_set,
)

OLD = Provenance.from_json({**PROVENANCE, "compute": {"torch": "2.12"}})
NEW = Provenance.from_json({**PROVENANCE, "compute": {"torch": "2.13"}})
MORE = (*KEYS, "aa.png", "zz.png")


def plan_of(provenance: Provenance, keys: tuple[str, ...] = MORE) -> SmallPlan:
    return replace(SmallPlan(provenance, keys, 2), failures=())


def run(root: Path, provenance: Provenance = NEW, *, mix: bool = True, kill_after: int | None = None) -> Path:
    """One run over all images, which ends after so many shards or is finished."""
    plan = plan_of(provenance)
    with LatentSetWriter(root, provenance, mix_versions=mix) as latents:
        plan = replace(plan, provenance=latents.provenance)
        while not latents.begin(plan.on(latents.base), hashes_of):
            pass
        for number, _ in enumerate(latents.remaining):
            if number == kill_after:
                return root
            write_next(latents)
        if kill_after is None and not latents.finished:
            latents.finish()
    return root


def write_mixed_set(root: Path) -> Path:
    """A set of eight latents of the old version and two of the new one."""
    write_set(root, plan_of(OLD, KEYS))
    return run(root)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A set of the old version, of which two images are still to come."""
    write_set(tmp_path / "old", plan_of(OLD, KEYS))
    return tmp_path / "old"


def test_a_set_goes_on_with_both_versions_on_record_only_if_asked_to(old: Path) -> None:
    before = contents(old)
    with pytest.raises(UsageError, match=r"compute\.torch: 2\.12 -> 2\.13.*or --mix-versions"):
        run(old, mix=False)
    assert contents(old) == before
    run(old)
    assert problems(old) == []
    manifest = Manifest.read(old)
    assert (manifest.provenance, manifest.later_versions) == (OLD, (NEW,))
    assert manifest.versions() == summarise(old)["versions"]
    assert [(made["latents"], made["differs"]) for made in manifest.versions()] == [
        (8, []),
        (2, ["compute.torch: 2.12 -> 2.13"]),
    ]
    assert {path: data for path, data in contents(old).items() if path in before and path.startswith("shards/")} == {
        path: data for path, data in before.items() if path.startswith("shards/")
    }


def test_a_mixed_set_is_read_shard_by_shard_under_its_own_record_and_says_so(old: Path) -> None:
    source = open_latents(run(old))
    assert [source.read(stored).provenance.to_json()["compute"]["torch"] for stored in source.shards][-1] == "2.13"
    assert source.read(source.shards[0]).provenance == OLD
    with pytest.warns(MixedVersionsWarning, match=r"version 2: 2 latents in .* \(compute.torch: 2.12 -> 2.13\)"):
        dataset = LatentDataset(old, verify=True)
    assert len(dataset) == len(source.keys) == 10
    assert [version["latents"] for version in dataset.versions] == [8, 2]


def test_each_version_on_record_goes_on_without_being_asked_and_writes_the_same_bytes(old: Path) -> None:
    run(old)
    before = contents(old)
    for provenance in (NEW, OLD):
        run(old, provenance, mix=False)
        assert contents(old) == before


@pytest.mark.parametrize("num_shards", [0, 1])
def test_a_run_that_was_killed_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, old: Path, num_shards: int
) -> None:
    whole = run(Path(shutil.copytree(old, tmp_path / "whole")))
    assert run(run(old, kill_after=num_shards)).exists()
    assert contents(old) == contents(whole)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_run_begun_under_the_old_version_is_finished_under_the_new_one(tmp_path: Path, num_shards: int) -> None:
    begun = run(tmp_path / "begun", OLD, kill_after=num_shards)
    with pytest.raises(UsageError, match="or --mix-versions"):
        run(begun, mix=False)
    again = Path(shutil.copytree(begun, tmp_path / "again"))
    run(begun)
    assert problems(begun) == []
    assert next(made["shards"] for made in Manifest.read(begun).versions()) == num_shards
    run(again, kill_after=1)
    assert contents(run(again)) == contents(begun)


def test_other_latents_are_refused_whatever_is_asked_for(old: Path) -> None:
    with pytest.raises(UsageError, match="--mix-versions does not go as far as dtype"):
        run(old, Provenance.from_json({**NEW.to_json(), "dtype": "float32"}))


def test_a_manifest_whose_versions_do_not_fit_is_refused(old: Path) -> None:
    run(old)
    fields = json.loads((old / MANIFEST_FILE).read_bytes())
    changes: list[dict[str, Any]] = [
        {"later_versions": []},
        {"later_versions": [{**NEW.to_json(), "dtype": "float32"}]},
        {"later_versions": 5},
        {"shards": [{**fields["shards"][0], "version": -1}, *fields["shards"][1:]]},
    ]
    for change in changes:
        (old / MANIFEST_FILE).write_bytes(json.dumps({**fields, **change}).encode())
        with pytest.raises(StoreError, match="not a manifest"):
            Manifest.read(old)


def test_a_shard_under_another_versions_number_is_found_out(old: Path) -> None:
    run(old)
    edit_manifest(old, lambda fields: fields["shards"][-1].pop("version"))
    assert any("made with other settings than the set" in problem.what for problem in problems(old))
    source = open_latents(old)
    with pytest.raises(StoreError, match="made with other settings"):
        source.read(source.shards[-1])


def test_the_same_weights_under_another_name_keep_the_name_and_every_byte(tmp_path: Path, old: Path) -> None:
    model = {**OLD.to_json()["model"], "name": "/abs/elsewhere", "revision": "0123"}
    moved = Provenance.from_json({**OLD.to_json(), "model": model})
    whole = run(Path(shutil.copytree(old, tmp_path / "whole")), OLD, mix=False)
    run(old, moved, mix=False, kill_after=1)
    assert contents(run(old, OLD, mix=False)) == contents(whole)
