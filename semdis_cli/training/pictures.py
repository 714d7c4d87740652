"""Pictures for people: images, what became of them, and what their latents look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from semdis_cli.files.atomic import make_folder, publish
from semdis_cli.images.images import write_image


@dataclass(frozen=True)
class Reconstruction:
    """An image uint8 [3,H,W], the same decoded, and its whitened latents [Z,h,w]."""

    image: Tensor
    decoded: Tensor
    latents: Tensor


def latents_as_colours(latents: Tensor) -> Tensor:
    """The three leading principal components of the positions' latents, as red, green and blue: [Z,h,w] -> [3,h,w].

    uint8; each component is scaled so that two standard deviations to either side fill the range. Latents that know
    what they show give the parts of one thing one colour (as in Oquab et al. 2023, DINOv2, figure 1).
    """
    grid = latents.shape[1:]
    x = latents.flatten(1).T.double().nan_to_num(0.0, 0.0, 0.0)  # [h*w,Z]; of a model gone wrong a picture too
    x = x - x.mean(dim=0)
    _, vectors = torch.linalg.eigh(x.T @ x)
    components = vectors[:, -min(3, vectors.shape[1]) :].flip(1)
    # An eigenvector's sign means nothing; this one does not jump from picture to picture.
    components = components * torch.where(components.sum(dim=0) < 0, -1.0, 1.0)
    y = x @ components
    y = functional.pad(y / y.std(dim=0, correction=0).clamp_min(1e-12), (0, 3 - y.shape[1]))
    colours: Tensor = ((y / 4 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    return colours.T.reshape(3, *grid)


def write_sheet(path: Path, rows: Sequence[Reconstruction]) -> None:
    """Publish a PNG with a row each of image, reconstruction and latents as colours."""
    height, width = (max(row.image.shape[axis] for row in rows) for axis in (1, 2))
    sheet = torch.full((len(rows), 3, 3, height, width), 255, dtype=torch.uint8)
    for i, row in enumerate(rows):
        size = row.image.shape[1:]
        colours = functional.interpolate(latents_as_colours(row.latents)[None], size, mode="nearest")[0]
        for column, picture in enumerate((row.image, row.decoded, colours)):
            sheet[i, column, :, : size[0], : size[1]] = picture
    pixels = sheet.permute(0, 3, 1, 4, 2).reshape(len(rows) * height, 3 * width, 3)
    make_folder(path.parent)
    publish(path, [write_image(pixels.contiguous().numpy(), "png")])
