"""Carries out ADM's centre crop, over which every FID on ImageNet is defined.

Source: `center_crop_arr` of openai/guided-diffusion, which EDM2, DiT, LightningDiT, MAR and REPA took over. While the
short side is at least twice the target it is halved with a box filter, rounded down; then it is resized to the target
bicubically, and the centre is cut out.
"""

from itertools import pairwise

import numpy as np
from PIL import Image
from torch import Tensor, from_numpy

from semdis_cli.images.formats.exif import turned, upright_size
from semdis_cli.records import Geometry

ADM_NAME = "pillow box, bicubic"  # of what resizes, as it is on record
_BYTES_PER_PX = 4  # of Pillow's RGB


def adm_sizes(source: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """List the sizes (H, W) that a picture of `source` goes through until its short side is `side` px.

    In floating point, and half a pixel rounded to the even side, as its authors do it.
    """
    sizes = [source]
    while min(sizes[-1]) >= 2 * side:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    (height, width), scale = sizes[-1], side / min(sizes[-1])
    return [*sizes[1:], (round(height * scale), round(width * scale))]


def adm_bytes(plan: Geometry) -> int:
    """Return the memory in bytes that `adm_pixels` takes at its peak, its argument not counted."""
    sizes = [plan.source, *adm_sizes(plan.source, min(plan.image))]
    return _BYTES_PER_PX * max(before[0] * (before[1] + now[1]) + now[0] * now[1] for before, now in pairwise(sizes))


def adm_pixels(pixels: np.ndarray, plan: Geometry, orientation: int = 1) -> Tensor:
    """Carry out a plan of ADM's crop: [3,H,W] uint8, (H, W) = `plan.bucket`, a square.

    `pixels`: [H,W,3] uint8 sRGB as stored in a file whose EXIF `orientation` is 1..8; turned upright first.

    Each step is done along rows first, then along columns, by two calls: what Pillow up to 12 makes of one. Later ones
    begin with the columns where that is quicker, and get other pixels.
    """
    if pixels.shape != (*upright_size(plan.source, orientation), 3):
        raise ValueError(f"{pixels.shape} pixels, orientation {orientation}, do not fit {plan}")
    image = Image.fromarray(np.ascontiguousarray(turned(pixels, orientation)))
    *halves, (height, width) = adm_sizes(plan.source, min(plan.image))
    for half in halves:
        image = image.resize((half[1], image.height), Image.Resampling.BOX)
        image = image.resize((half[1], half[0]), Image.Resampling.BOX)
    (top, left), (rows, columns) = plan.crop, plan.image
    image = image.resize((width, image.height), Image.Resampling.BICUBIC).crop((left, 0, left + columns, image.height))
    image = image.resize((columns, height), Image.Resampling.BICUBIC).crop((0, top, columns, top + rows))
    return from_numpy(np.array(image)).permute(2, 0, 1)
