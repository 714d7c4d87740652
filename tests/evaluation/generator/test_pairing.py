"""Which images are compared: those that all sets have, with equal labels and equally many tokens, some held out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.evaluation.generator.latents import open_set
from semdis_cli.evaluation.generator.matched import MatchedSets, match_sets, titles_of
from semdis_cli.evaluation.generator.pairing import HELD_OUT_EACH, find_common, is_held_out, photo_word
from semdis_cli.evaluation.generator.settings import GeneratorSettings
from tests.evaluation.generator.worlds import draw, keys_of, noise_like, result_of, save_made, save_set


def matched(*paths: Path) -> MatchedSets:
    """The sets, matched."""
    return result_of(match_sets(paths))


def test_images_that_not_all_sets_have_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    keys = keys_of(200)
    a = save_set(tmp_path / "a", {key: noise_like(key) for key in keys[:150]})
    b = save_set(tmp_path / "b", {key: noise_like(key) for key in keys[50:][::-1]})
    both = matched(a, b)
    assert len(both.common) == 100
    for one, items in zip(both.sets, both.common.items, strict=True):
        assert [one.key(item) for item in items.tolist()] == keys[50:150]
    notes = list(both.notes())
    assert notes[:2] == [f"{name}: 50 images left out, which not all sets have" for name in "ab"]
    assert sorted([*both.learned.tolist(), *both.held_out.tolist()]) == list(range(100))
    assert 8 <= len(both.held_out) <= 10


@given(st.lists(st.sets(st.text(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_common_keys_are_those_of_all(several: list[set[str]]) -> None:
    class Keys:
        def __init__(self, keys: set[str]) -> None:
            self.keys = sorted(keys)

        def __len__(self) -> int:
            return len(self.keys)

        def key(self, number: int) -> str:
            return self.keys[number]

    sets = [Keys(keys) for keys in several]
    common = result_of(find_common(sets))  # type: ignore[arg-type]
    expected = sorted(set.intersection(*several))
    assert len(common) == len(expected)
    for one, items in zip(sets, common.items, strict=True):
        assert [one.keys[item] for item in items] == expected


def test_what_is_held_out_depends_on_the_key_alone_and_not_on_the_set(tmp_path: Path) -> None:
    small = save_made(tmp_path / "small", 120, noise_like)
    large = save_made(tmp_path / "large", 240, lambda key: draw(key, (9, 2, 2)))
    of_small, of_both = matched(small), matched(large, small)
    assert of_small.held_out.tolist() == of_both.held_out.tolist()
    keys = [f"{number}.png" for number in range(5000)]
    words = np.array([photo_word(key) for key in keys], dtype=np.uint64)
    chosen = is_held_out(words)
    assert chosen.sum() == len(keys) // HELD_OUT_EACH
    assert is_held_out(words[::-1]).tolist() == chosen[::-1].tolist()


def test_all_views_of_a_photograph_are_on_one_side() -> None:
    views = [f"{number}{mark}.jpg" for number in range(300) for mark in ("", "#256", "#256crop2", "#crop3")]
    assert len({photo_word(key) for key in views}) == 300
    chosen = is_held_out(np.array([photo_word(key) for key in views], dtype=np.uint64)).reshape(300, 4)
    assert (chosen.all(axis=1) | ~chosen.any(axis=1)).all()
    assert 8 <= chosen[:, 0].sum() <= 30
    assert photo_word("a#b.jpg") != photo_word("a.jpg")  # no mark of ours


def test_too_few_images_are_refused_in_a_line(tmp_path: Path) -> None:
    root = save_made(tmp_path / "few", 60, noise_like)
    with pytest.raises(UsageError, match=r"^60 images in all sets are too few photographs: one in 10 is held out, and"):
        matched(root)
    root = save_made(tmp_path / "more", 90, noise_like)
    with pytest.raises(UsageError, match=r"images to learn from: not enough for a batch of 256; give more, or a small"):
        matched(root).check(256)


def test_sets_without_common_keys_are_refused(tmp_path: Path) -> None:
    a = save_set(tmp_path / "a", {f"a{key}": noise_like(key) for key in keys_of(90)})
    b = save_set(tmp_path / "b", {f"b{key}": noise_like(key) for key in keys_of(90)})
    with pytest.raises(UsageError, match="no image is in all of them; encode the same images, under the same keys"):
        matched(a, b)


def test_labels_are_compared_by_name_and_taken_from_the_set_that_has_them(tmp_path: Path) -> None:
    keys = keys_of(100)
    a = save_made(tmp_path / "a", 100, noise_like)
    cats = {key: number % 2 for number, key in enumerate(keys)}
    b = save_made(tmp_path / "b", 100, noise_like, labels=cats, classes=("cat", "dog"))
    turned = {key: 2 - label for key, label in cats.items()}
    c = save_made(tmp_path / "c", 100, noise_like, labels=turned, classes=("owl", "dog", "cat"))
    found = matched(a, b, c)
    assert found.labels.names == ("cat", "dog")
    assert found.labels.origin == str(b)
    assert [found.labels.text(number) for number in range(3)] == ["'cat'", "'dog'", "'cat'"]
    assert matched(a).num_classes == 0
    assert "no labels: the generator learns without classes" in list(matched(a).notes())


def test_another_label_is_refused_and_named(tmp_path: Path) -> None:
    labels = dict.fromkeys(keys_of(100), 0)
    a = save_made(tmp_path / "a", 100, noise_like, labels=labels, classes=("cat", "dog"))
    b = save_made(tmp_path / "b", 100, noise_like, labels=labels | {"0007.png": 1}, classes=("cat", "dog"))
    with pytest.raises(
        UsageError, match=r"b: 1 image with another label than in .*a: '0007.png' has 'dog' here, 'cat'"
    ):
        matched(a, b)


def test_images_without_a_label_are_learned_without_a_class(tmp_path: Path) -> None:
    labels = dict.fromkeys(keys_of(100)[:60], 3)
    root = save_made(tmp_path / "a", 100, noise_like, labels=labels)
    found = matched(root)
    assert found.labels.names == ("3",)
    assert "40 images without a label, learned without a class" in list(found.notes())
    learned = result_of(found.images_of(0, GeneratorSettings(num_steps=10, batch_size=4))).learned
    expected = [0 if number < 60 else 1 for number in learned.numbers]  # 1: none, as the network calls it
    assert learned.labels.tolist() == expected


def test_tokens_are_equally_many_or_it_is_refused(tmp_path: Path) -> None:
    coarse = save_made(tmp_path / "coarse", 90, noise_like)
    fine = save_made(tmp_path / "fine", 90, lambda key: draw(key, (2, 8, 8)))
    assert matched(coarse, fine).patches == (1, 2)
    odd = save_made(tmp_path / "odd", 90, lambda key: draw(key, (2, 6, 6)))
    with pytest.raises(UsageError, match=r"^grids of 4x4 and 6x6 for one image: they cannot be cut into equally many"):
        matched(coarse, odd).check(8)


def test_a_batch_has_one_grid_in_every_set(tmp_path: Path) -> None:
    keys = keys_of(200)
    sides = {key: (4, 2) if number % 3 else (2, 4) for number, key in enumerate(keys)}
    a = save_set(tmp_path / "a", {key: draw(key, (3, *sides[key])) for key in keys})
    b = save_set(tmp_path / "b", {key: draw(key, (5, 2 * sides[key][0], 2 * sides[key][1])) for key in keys})
    found = matched(a, b)
    assert found.patches == (1, 2)
    assert set(found.buckets.grids) == {((4, 2), (8, 4)), ((2, 4), (4, 8))}
    for number, bucket in enumerate(found.buckets.numbers.tolist()):
        assert found.buckets.grids[bucket][0] == sides[keys[number]]
    assert found.num_usable(100) < len(found.learned)  # one of the two fills no batch
    found.check(100)


def test_channels_get_mean_0_and_variance_1_over_what_is_learned(tmp_path: Path) -> None:
    scale = torch.tensor([0.01, 1.0, 50.0, 0.0])[:, None, None]
    root = save_made(tmp_path / "a", 150, lambda key: draw(key, (4, 4, 4)) * scale + 7)
    found = matched(root)
    images = result_of(found.images_of(0, GeneratorSettings()))
    latents, keys = images.latents.read(found.learned.tolist())
    assert keys == [found.sets[0].key(int(number)) for number in found.learned]
    assert latents.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0, 0], abs=1e-3)
    assert latents.var(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 1, 1, 0], abs=1e-3)
    assert images.latents.normalisation.num_dead == 1
    measured, _ = images.latents.read(found.measured(GeneratorSettings()).tolist())
    assert images.held_out.variance.tolist() == pytest.approx(measured.square().mean(dim=(0, 2, 3)).tolist())


def test_titles_tell_sets_apart() -> None:
    assert titles_of([Path("x/a"), Path("y/b")]) == ("a", "b")
    assert titles_of([Path("x/a"), Path("y/a")]) == ("x/a", "y/a")
    assert titles_of([Path("x"), Path("x")]) == ("x (1)", "x (2)")


def test_a_shard_by_itself_is_a_set_too(tmp_path: Path) -> None:
    root = save_made(tmp_path / "a", 90, noise_like)
    shard = next((root / "shards").iterdir())
    assert len(matched(shard).common) == len(open_set(root)) == 90
