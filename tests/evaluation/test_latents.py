"""What sets of latents tell of classes: answers that are known, and bad input."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from semdis_cli.errors import SemdisError, StoreError, UsageError
from semdis_cli.evaluation.features import draw_positions
from semdis_cli.evaluation.labelled import TEST, TRAIN, choose_images
from semdis_cli.evaluation.latents import evaluate_latents
from semdis_cli.settings import LatentEvalSettings
from semdis_cli.store.reader import open_latents
from tests.evaluation.sets import write_latents
from tests.store import flip_last_bit, make_plan, write_set

NUM_CLASSES, EACH, CHANNELS = 4, 30, 6
LABELS = {f"i{number:03d}.png": number % NUM_CLASSES for number in range(NUM_CLASSES * EACH)}
METHODS = {f"{kind}_{rows}" for kind in ("knn", "probe") for rows in ("mean", "mean_std", "positions")}


def noise(key: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + int(key[1:4]))
    return torch.randn(CHANNELS, 2, 2, generator=generator)


def separable(labels: Mapping[str, int] = LABELS, spread: float = 0.05, seed: int = 0) -> dict[str, Tensor]:
    """Latents around a centre for each class."""
    centres = torch.randn(10, CHANNELS, 1, 1, generator=torch.Generator().manual_seed(7))
    return {key: centres[label] + spread * noise(key, seed) for key, label in labels.items()}


def labelled(labels: Mapping[str, Any] = LABELS, column: str = "label") -> dict[str, dict[str, Any]]:
    return {key: {column: label} for key, label in labels.items()}


def evaluated(*roots: Path, **settings: Any) -> dict[str, Any]:
    sources = [open_latents(root) for root in roots]
    report = evaluate_latents(sources, LatentEvalSettings(**settings), lambda _: None).to_json()
    result: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    return result


def test_separable_classes_are_all_told_apart(tmp_path: Path) -> None:
    report = evaluated(write_latents(tmp_path / "a", separable(), labelled()))
    accuracy = report["sets"][0]["accuracy"]
    assert set(accuracy) == METHODS
    assert {name: found["share"] for name, found in accuracy.items()} == dict.fromkeys(METHODS, 1.0)
    assert report["labels"]["chance"] == 0.25
    assert report["labels"]["majority"]["all"] == 0.25
    assert report["labels"]["split"] == {"train": 72, "validation": 24, "test": 24}
    assert accuracy["knn_mean"]["images"] == 120
    assert accuracy["probe_mean"]["images"] == 24


def test_latents_that_know_nothing_of_their_classes_are_right_by_chance(tmp_path: Path) -> None:
    report = evaluated(write_latents(tmp_path / "a", {key: noise(key) for key in LABELS}, labelled()))
    for name, found in report["sets"][0]["accuracy"].items():
        assert found["low"] <= 0.25 <= found["high"], name


def test_classes_that_differ_in_spread_alone_are_told_by_the_standard_deviation(tmp_path: Path) -> None:
    latents = {key: (0.1 + label) * noise(key) for key, label in LABELS.items()}
    accuracy = evaluated(write_latents(tmp_path / "a", latents, labelled()))["sets"][0]["accuracy"]
    assert accuracy["probe_mean_std"]["share"] > accuracy["probe_mean"]["share"] + 0.2


def test_statistics_are_those_of_all_positions(tmp_path: Path) -> None:
    latents = {key: 3 + 2 * noise(key) for key in LABELS}
    report = evaluated(write_latents(tmp_path / "a", latents))
    values = torch.stack([*latents.values()]).permute(1, 0, 2, 3).flatten(1).double()
    found = report["sets"][0]["statistics"]
    assert found["mean"] == pytest.approx(values.mean(1).tolist())
    assert found["std"] == pytest.approx(values.std(1, correction=0).tolist())
    assert found["positions"] == 480
    assert sum(found["explained_variance"]) == pytest.approx(1)
    assert found["components_for"]["99%"] == CHANNELS
    assert report["labels"] == {"why_none": "no image has a 'label'"}
    assert report["sets"][0]["accuracy"] == {}


def test_sets_are_compared_on_the_images_that_all_have(tmp_path: Path) -> None:
    fewer = {key: LABELS[key] for key in list(LABELS)[:100]}
    good = write_latents(tmp_path / "good", separable(fewer), labelled(fewer))
    poor = write_latents(tmp_path / "poor", {key: noise(key) for key in LABELS}, labelled())
    report = evaluated(poor, good)
    assert report["sample"]["images"] == report["sample"]["of"] == 100
    assert [one["images"] for one in report["sets"]] == [120, 100]
    found = {one["method"]: one for one in report["differences"]}
    assert set(found) == METHODS
    shares = [one["accuracy"]["knn_mean"]["share"] for one in report["sets"]]
    assert found["knn_mean"]["difference"] == pytest.approx(shares[1] - shares[0])
    assert found["knn_mean"]["low"] > 0
    assert found["knn_mean"]["worse"] == 0


def test_one_set_may_lack_the_labels(tmp_path: Path) -> None:
    without = write_latents(tmp_path / "without", separable())
    report = evaluated(without, write_latents(tmp_path / "with", separable(seed=1), labelled()))
    assert report["sets"][0]["accuracy"]["probe_mean"]["share"] == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "float8_e4m3"])
def test_stored_dtypes_are_read_by_their_values(tmp_path: Path, dtype: str) -> None:
    report = evaluated(
        write_latents(tmp_path / "exact", separable(), labelled()),
        write_latents(tmp_path / "stored", separable(), labelled(), dtype=dtype),
    )
    exact, stored = (one["statistics"]["std"] for one in report["sets"])
    assert stored == pytest.approx(exact, rel=0.02)
    assert all(found["share"] == 1 for found in report["sets"][1]["accuracy"].values())


def test_any_column_of_names_can_be_the_classes(tmp_path: Path) -> None:
    names = {key: ("cat", "dog", "eel", "fox")[label] for key, label in LABELS.items()}
    root = write_latents(tmp_path / "a", separable(), labelled(names, "animal"))
    report = evaluated(root, label="animal")
    assert report["labels"]["classes"] == 4
    assert report["sets"][0]["accuracy"]["probe_mean"]["share"] == 1.0


def test_a_sample_is_the_same_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    source = open_latents(write_latents(tmp_path / "a", separable(), labelled()))
    chosen = [choose_images([source], LatentEvalSettings(max_images=50, seed=seed)) for seed in (0, 0, 1)]
    assert chosen[0].keys == chosen[1].keys
    assert len(chosen[0].keys) == 50
    assert chosen[0].num_common == 120
    assert set(chosen[0].keys) != set(chosen[2].keys)
    whole = choose_images([source], LatentEvalSettings())
    assert whole.keys[:50] == chosen[0].keys


def test_crops_of_a_file_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    labels = {f"i{number:03d}#crop{crop}.png": number % 3 for number in range(30) for crop in (1, 2, 3)}
    latents = {key: noise(key, int(key[9])) for key in labels}
    views: dict[str, Any] = {"preprocessing": {"geometry": {"size": 32, "crop_seed": 0}}}
    source = open_latents(write_latents(tmp_path / "a", latents, labelled(labels), **views))
    chosen = choose_images([source], LatentEvalSettings())
    assert chosen.classes is not None
    parts: dict[str, set[int]] = {}
    for key, part in zip(chosen.keys, chosen.classes.parts.tolist(), strict=True):
        parts.setdefault(key[:4], set()).add(part)
    assert len(parts) == 30
    assert all(len(found) == 1 for found in parts.values())
    assert (chosen.classes.parts == TEST).sum() == 18
    assert (chosen.classes.parts == TRAIN).sum() == 54


def test_classes_of_few_files_are_left_out(tmp_path: Path) -> None:
    labels = {key: (label if number > 3 else 9) for number, (key, label) in enumerate(LABELS.items())}
    report = evaluated(write_latents(tmp_path / "a", separable(), labelled(labels)))
    assert report["labels"]["classes_left_out"] == ["9"]
    assert report["labels"]["images"] == 116
    assert report["sample"]["images"] == 120


def test_positions_are_drawn_by_key_and_seed_alone() -> None:
    assert draw_positions("a.png", 0, 100, 16).tolist() == draw_positions("a.png", 0, 100, 16).tolist()
    assert len(set(draw_positions("a.png", 0, 100, 16).tolist())) == 16
    assert draw_positions("a.png", 0, 100, 16).tolist() != draw_positions("b.png", 0, 100, 16).tolist()
    assert sorted(draw_positions("a.png", 0, 2, 5).tolist()) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def refused(*roots: Path, **settings: Any) -> SemdisError:
    with pytest.raises(SemdisError) as caught:
        evaluated(*roots, **settings)
    return caught.value


def test_sets_without_common_images_are_refused(tmp_path: Path) -> None:
    one = write_latents(tmp_path / "one", {"i001.png": noise("i001.png")})
    error = refused(one, write_latents(tmp_path / "two", {"i002.png": noise("i002.png")}))
    assert isinstance(error, UsageError)
    assert "have no image in common" in str(error)


def test_classes_that_are_asked_for_must_be_there(tmp_path: Path) -> None:
    latents = separable()
    labels = labelled(dict.fromkeys(LABELS, "x"), "kind")
    one_class = write_latents(tmp_path / "one", latents, labels)
    assert "no image has a 'label'; columns: kind" in str(refused(one_class, label="label"))
    assert "all images are of one class, 'x', in the column 'kind'" in str(refused(one_class, label="kind"))
    each_its_own = write_latents(tmp_path / "each", latents, labelled({key: key for key in LABELS}, "name"))
    assert "fewer than two of 120 classes have 5 files or more" in str(refused(each_its_own, label="name"))
    shard = min((one_class / "shards").iterdir())
    assert "no image has a 'kind'; columns: none" in str(refused(shard, label="kind"))


def test_classes_that_nobody_asked_for_may_be_of_no_use(tmp_path: Path) -> None:
    report = evaluated(write_latents(tmp_path / "a", separable(), labelled(dict.fromkeys(LABELS, 3))))
    assert report["labels"] == {"why_none": "all images are of one class, '3', in the column 'label'"}
    assert report["sample"]["images"] == 120


def test_sets_that_disagree_on_a_class_are_refused(tmp_path: Path) -> None:
    one = write_latents(tmp_path / "one", separable(), labelled())
    other = write_latents(tmp_path / "other", separable(), labelled({**LABELS, "i007.png": 0}))
    error = refused(one, other)
    assert isinstance(error, StoreError)
    assert str(error).startswith(f"{other}: 'i007.png' is of class '0' here, of '3' in {one}")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    root = write_latents(tmp_path / "a", separable(), labelled(), shard_images=50)
    shard = sorted((root / "shards").iterdir())[1]
    flip_last_bit(shard)
    error = refused(root)
    assert isinstance(error, StoreError)
    assert str(error).startswith(str(shard))


def test_latents_that_do_not_vary_have_figures_all_the_same(tmp_path: Path) -> None:
    report = evaluated(write_latents(tmp_path / "a", {key: torch.full((3, 2, 2), 0.5) for key in LABELS}, labelled()))
    statistics = report["sets"][0]["statistics"]
    assert statistics["std"] == [0.0] * 3
    assert statistics["dead_channels"] == [0, 1, 2]
    assert statistics["effective_rank"] == 0
    assert statistics["components_for"] == {}
    assert report["sets"][0]["accuracy"]["probe_mean"]["share"] == 0.25


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "a", make_plan(("bad.png",)))
    assert "holds no latents" in str(refused(tmp_path / "a"))
