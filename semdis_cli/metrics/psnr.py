"""Peak signal-to-noise ratio."""

import math

import numpy as np
import torch
from torch import Tensor


def psnr_db(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE), of two uint8 images of one shape; inf if they are equal.

    The mean square error is taken over all pixels and channels, of whole numbers and so exactly.
    """
    assert image.shape == reference.shape, f"{list(image.shape)} against {list(reference.shape)}"
    differences = (torch.maximum(image, reference) - torch.minimum(image, reference)).cpu().numpy()
    mse = int(np.square(differences, dtype=np.uint16).sum(dtype=np.uint64)) / differences.size
    return math.inf if mse == 0 else 10.0 * math.log10(255.0**2 / mse)
