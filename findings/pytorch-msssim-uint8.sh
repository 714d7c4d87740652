#!/usr/bin/env bash
# SSIM of pytorch-msssim is 1 for any two pictures of uint8, black and white among them, although its default range is 255.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 pytorch-msssim==1.0.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from pytorch_msssim import ssim

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("pytorch-msssim", "torch", "numpy")))
torch.manual_seed(0)
noise = [torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8) for _ in range(2)]
black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
pairs = {"black and white": (black, black + 255), "two pictures of noise": noise}
print("expected: near 0 for both pairs, from uint8 as from float32, or an error; data_range is 255 if nothing is said")
values = {}
for name, (one, other) in pairs.items():
    values[name] = float(ssim(one, other)), float(ssim(one.float(), other.float()))
    print(f"{name}: uint8 {values[name][0]:.4f}, the same values in float32 {values[name][1]:.4f}")
print("what happens: the Gaussian window is cast to the pictures' dtype, and all of its weights become 0")
print("why it matters: decoded pictures are uint8, and a perfect score is believed where the last bits are at stake")
wrong = all(whole == 1 and real < 0.1 for whole, real in values.values())
raise SystemExit(0 if wrong else "changed: uint8 is measured, or refused")
PY
