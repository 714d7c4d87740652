"""The pixel convention, uint8 0..255 <-> [-1, 1], and patches of pixels as rows: all of it exists once, here."""

import torch
from torch import Tensor


def images_to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1.0)


def float_to_images(x: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Float in about [-1, 1] -> uint8 0..255, clamped and rounded to nearest (not truncated).

    `scratch`: float32 of the shape of `x`, for the values between; it may be `x`, which is lost then.
    """
    values = torch.add(x.float(), 1.0, out=scratch).mul_(127.5).round_().clamp_(0, 255)
    return values.to(torch.int16).to(torch.uint8)  # on a CPU three times as fast as without the step between


def images_to_patches(images: Tensor, patch: int) -> Tensor:
    """[B,c,H,W] of any strides and dtype -> [B*(H/P)*(W/P), c*P*P]: one row a patch, in the order of `PixelUnshuffle`.

    Rows run along the patch grid image by image, line by line.
    """
    patches = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # [B,c,h,P,w,P]
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, images.shape[1] * patch * patch)


def patches_to_images(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """[B*h*w, c*P*P] with `grid` (h, w) -> contiguous [B,c,h*P,w*P]: the inverse of `images_to_patches`."""
    split = patches.view(-1, *grid, patches.shape[1] // patch**2, patch, patch)  # [B,h,w,c,P,P]
    return split.permute(0, 3, 1, 4, 2, 5).reshape(-1, split.shape[3], grid[0] * patch, grid[1] * patch)
