"""Sheets of pictures, and latents as colours."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from semdis_cli.training.pictures import Reconstruction, latents_as_colours, write_sheet


def test_two_kinds_of_latents_get_two_colours() -> None:
    latents = torch.zeros(8, 4, 6)
    latents[:, :, 3:] = torch.linspace(-1, 2, 8)[:, None, None]
    colours = latents_as_colours(latents)
    assert colours.shape == (3, 4, 6)
    assert colours.dtype == torch.uint8
    left, right = colours[:, :, :3], colours[:, :, 3:]
    assert torch.equal(left, left[:, :1, :1].expand_as(left))
    assert torch.equal(right, right[:, :1, :1].expand_as(right))
    # one standard deviation to either side of the middle: a quarter of the range
    assert sorted([int(left[0, 0, 0]), int(right[0, 0, 0])]) == [64, 191]


def test_the_red_channel_follows_the_direction_of_most_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    strong, weak = torch.randn(2, 10, 10, generator=generator)
    latents = torch.stack([3 * strong, weak, torch.zeros(10, 10), torch.zeros(10, 10)])
    red = latents_as_colours(latents)[0].double()
    correlation = np.corrcoef(red.flatten().numpy(), strong.flatten().numpy())[0, 1]
    assert abs(correlation) > 0.95


def test_few_channels_and_flat_latents_are_grey_where_there_is_nothing() -> None:
    assert torch.equal(latents_as_colours(torch.ones(5, 2, 2)), torch.full((3, 2, 2), 128, dtype=torch.uint8))
    assert latents_as_colours(torch.randn(2, 3, 3)).shape == (3, 3, 3)


def test_a_sheet_shows_each_image_beside_its_reconstruction_and_latents(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for height, width in ((32, 48), (16, 16)):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        latents = torch.randn(8, height // 16, width // 16, generator=generator)
        rows.append(Reconstruction(image, 255 - image, latents))
    write_sheet(tmp_path / "pictures" / "sheet.png", rows)
    sheet = np.asarray(Image.open(tmp_path / "pictures" / "sheet.png"))
    assert sheet.shape == (2 * 32, 3 * 48, 3)
    assert np.array_equal(sheet[:32, :48], rows[0].image.permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[32:48, 48:64], rows[1].decoded.permute(1, 2, 0).numpy())
    assert np.array_equal(sheet[:16, 96:112], np.broadcast_to(sheet[0, 96], (16, 16, 3)))  # one patch, one colour
    assert (sheet[48:, :48] == 255).all()  # what is smaller leaves white
