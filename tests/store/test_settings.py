"""Records of settings: what is a difference, what two versions may differ in, and what is said of it."""

from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import UsageError
from semdis_cli.provenance import Provenance
from semdis_cli.store.versions import choose_record

MODEL = {"name": "model", "source": "folder", "revision": None, "weights_sha256": "ab" * 32, "config_sha256": "cd" * 32}
RECORD: dict[str, Any] = {
    "model": MODEL,
    "dtype": "bfloat16",
    "whitening": {"mean": [0.0], "std": [1.0]},
    "posterior": {"kind": "mode"},
    "preprocessing": {
        "reader": "pillow 12.0",
        "resize": "torch 2.12",
        "background": [255, 255, 255],
        "geometry": {"size": None, "max_pixels": None},
    },
    "compute": {"torch": "2.12", "device": "cpu", "num_threads": 1},
}


BEFORE = Provenance.from_json(RECORD)


def differences(now: dict[str, Any]) -> list[str]:
    return list(map(str, BEFORE.differences(Provenance.from_json(now))))


def changed(path: str, value: Any, record: dict[str, Any] = RECORD) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    return {**record, name: changed(rest, value, record[name]) if rest else value}


@pytest.mark.parametrize(("what", "value"), [("name", "/abs/model"), ("source", "hub"), ("revision", "0123abc")])
def test_what_a_model_is_called_is_no_difference_and_the_first_name_stays(what: str, value: str) -> None:
    moved = Provenance.from_json(changed(f"model.{what}", value))
    assert BEFORE.is_same(moved)
    assert choose_record(Path("l"), [BEFORE], moved, mix_versions=False) is BEFORE


def test_another_model_is_told_by_both_names() -> None:
    other = {**changed("model.weights_sha256", "ef" * 32), "dtype": "bfloat16"}
    other["model"]["name"] = "other"
    assert differences(other) == ["model: model (weights abababababab) -> other (weights efefefefefef)"]
    assert differences(changed("model.config_sha256", "ef" * 32)) == [
        "model: model (config cdcdcdcdcdcd) -> model (config efefefefefef)"
    ]


@pytest.mark.parametrize(
    "path", ["preprocessing.reader", "preprocessing.resize", "compute.torch", "compute.device", "compute.num_threads"]
)
def test_versions_may_stand_beside_each_other_where_that_is_asked_for(path: str) -> None:
    now = Provenance.from_json(changed(path, "another"))
    assert BEFORE.is_of_one_kind(now)
    with pytest.raises(UsageError, match=f"{path}.*give the same ones.*, or --mix-versions to go on with both on rec"):
        choose_record(Path("l"), [BEFORE], now, mix_versions=False)
    assert choose_record(Path("l"), [BEFORE], now, mix_versions=True) is now
    assert choose_record(Path("l"), [BEFORE, now], Provenance(now.text), mix_versions=False) is now, (
        "it is on record already"
    )


@pytest.mark.parametrize(
    "path",
    [
        *("model.weights_sha256", "dtype", "whitening.mean", "posterior.kind"),
        *("preprocessing.background", "preprocessing.geometry.size"),
    ],
)
def test_other_latents_are_refused_whatever_is_asked_for(path: str) -> None:
    now = Provenance.from_json(changed("compute.torch", "2.13", changed(path, "another")))
    assert not BEFORE.is_of_one_kind(now)
    with pytest.raises(UsageError, match="other settings") as refused:
        choose_record(Path("l"), [BEFORE], now, mix_versions=True)
    assert "to go on with both" not in str(refused.value)
    assert "--mix-versions does not go as far as" in str(refused.value)
