"""What contenders are given: padding, tiles, and what is made once."""

from itertools import count

import numpy as np
from hypothesis import given as with_
from hypothesis import strategies as st

from semdis_cli.pipeline.contenders.given import Given
from tests.pipeline.contenders.worlds import image_of, noise, padded

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@with_(SIZES, st.sampled_from([1, 2, 8, 16]), st.sampled_from([1, 4, 16, 32]))
def test_images_are_padded_as_far_as_another_model_needs_it(size: tuple[int, int], first: int, other: int) -> None:
    pixels = noise(0, size)
    [image] = Given([image_of("a", pixels, first)]).padded(other)
    np.testing.assert_array_equal(image.pixels.numpy(), padded(pixels, other))
    assert image.record.geometry.image == size
    assert image.record.geometry.bucket == image.pixels.shape[1:]


def test_what_is_padded_right_already_is_taken_as_it_is() -> None:
    image = image_of("a", noise(0, (20, 30)))
    assert Given([image]).padded(16)[0] is image


@with_(st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 20), st.sampled_from([1, 4, 16]))
def test_tiles_have_every_pixel_once_and_groups_have_one_size(
    sizes: list[tuple[int, int]], side: int, multiple: int
) -> None:
    pictures = [noise(seed, size) for seed, size in enumerate(sizes)]
    images = [image_of(f"{number}.png", one) for number, one in enumerate(pictures)]
    found = [np.zeros_like(one) for one in pictures]
    seen = [np.zeros(one.shape[1:], dtype=int) for one in pictures]
    keys = []
    for tiles in Given(images).tiles(side, multiple):
        assert len({tile.pixels.shape for tile in tiles.given.padded(multiple)}) == 1
        for (row, top, left), tile in zip(tiles.places, tiles.given.images, strict=True):
            height, width = tile.record.geometry.image
            assert max(height, width) <= side
            found[row][:, top : top + height, left : left + width] = tile.pixels.numpy()
            seen[row][top : top + height, left : left + width] += 1
            keys.append(tile.record.key)
    assert all((one == 1).all() for one in seen)
    assert all(np.array_equal(one, two) for one, two in zip(found, pictures, strict=True))
    assert len(set(keys)) == len(keys), "tiles draw their noise by their keys"


def test_what_several_need_is_made_once() -> None:
    given, made = Given([]), count()
    assert [given.once(key, lambda: next(made)) for key in "aabab"] == [0, 0, 1, 0, 1]
    images = Given([image_of("a", noise(0, (20, 30)))])
    assert images.padded(8) is images.padded(8)
    assert images.tiles(8, 4) is images.tiles(8, 4)
