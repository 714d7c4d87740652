#!/usr/bin/env bash
# SSIM of piq averages pictures down first: from a side of 383 px to one of 384 it jumps, away from scikit-image's, which it says it matches.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 piq==0.8.0 \
  scikit-image==0.26.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
import torch
from skimage.metrics import structural_similarity

try:
    import torchvision
except RuntimeError:  # its CUDA build beside a CPU build of torch: declare the operators, none is called here
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}() -> ()")
import piq

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("piq", "scikit-image", "torch", "torchvision", "numpy")))
random = np.random.default_rng(0)
frequency = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)) + 1 / 512
picture = np.fft.ifft2(np.fft.fft2(random.standard_normal((512, 512))) / frequency).real  # contrast like a photograph's
picture = np.clip(128 + 50 * picture / picture.std(), 0, 255)
noisy = np.clip(picture + random.normal(0, 15, picture.shape), 0, 255)
wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
print("expected: about one value at all sizes, and that of scikit-image; piq's docstring: 'To match performance with skimage")
print("          and tensorflow set downsample = True', which is the default")
off = {}
for side in (256, 383, 384, 512):
    pair = picture[:side, :side], noisy[:side, :side]
    tensors = [torch.tensor(pixels)[None, None] for pixels in pair]
    default, full = (float(piq.ssim(*tensors, data_range=255, downsample=down)) for down in (True, False))
    other = structural_similarity(*pair, **wang)
    off[side] = default - other, full - other
    print(f"{side} px: piq {default:.4f}, piq with downsample=False {full:.4f}, scikit-image {other:.4f}")
print("why it matters: an SSIM of 512 px by piq beside one by any other program compares a picture of half the size; nothing says so")
agree = all(abs(full) < 1e-3 for _, full in off.values()) and abs(off[383][0]) < 1e-3
raise SystemExit(0 if agree and off[384][0] > 0.03 and off[512][0] > 0.03 else "changed: piq agrees by default, or nowhere")
PY
