#!/usr/bin/env bash
# SSIM of torchmetrics takes its range from the batch unless told: a picture's value depends on its neighbours, a set's on the batch size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.functional.image import structural_similarity_index_measure as ssim
from torchmetrics.image import StructuralSimilarityIndexMeasure

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "torch", "numpy")))
torch.manual_seed(0)
ramp = torch.linspace(0, 1, 64).expand(4, 3, 64, 64)
pictures = ramp * torch.tensor([0.1, 1, 1, 1]).view(4, 1, 1, 1)  # the first one was taken in the dark
decoded = (pictures + 0.01 * torch.randn_like(pictures)).clamp(0, 1)

alone, among = float(ssim(decoded[:1], pictures[:1])), float(ssim(decoded, pictures, reduction="none")[0])
sets = {}
for size in (1, 4):
    metric = StructuralSimilarityIndexMeasure()
    for pair in zip(decoded.split(size), pictures.split(size)):
        metric.update(*pair)
    sets[size] = float(metric.compute())
fixed = float(ssim(decoded[:1], pictures[:1], data_range=1.0)), float(ssim(decoded, pictures, data_range=1.0, reduction="none")[0])
print("expected: one value for one pair of pictures; floats in [0, 1] have range 1, or the range has to be said, as for PSNR")
print(f"the dark picture: alone {alone:.4f}, in a batch with bright ones {among:.4f}")
print(f"the set: in batches of 1 {sets[1]:.4f}, in one batch {sets[4]:.4f}")
print(f"with data_range=1: alone {fixed[0]:.4f}, in a batch {fixed[1]:.4f}")
print("why it matters: two evaluations of the same pictures disagree by their batch size or order, with no warning")
moves = among - alone > 0.1 and abs(sets[1] - sets[4]) > 0.01 and abs(fixed[0] - fixed[1]) < 1e-4
raise SystemExit(0 if moves else "changed: the range no longer comes from the batch")
PY
