#!/usr/bin/env bash
# PSNR of torchmetrics over a set is the PSNR of its mean squared error, and not the mean over pictures, as its SSIM is: dB apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "torch", "numpy")))
torch.manual_seed(0)
pictures = [torch.rand(1, 3, 64, 64) for _ in range(8)]
decoded = [picture + deviation * torch.randn_like(picture) for picture, deviation in zip(pictures, torch.logspace(-2.5, -1, 8))]
metrics = {
    "PSNR": lambda: PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean"),  # the default
    "PSNR, dim=(1, 2, 3)": lambda: PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3)),
    "SSIM": lambda: StructuralSimilarityIndexMeasure(data_range=1.0, reduction="elementwise_mean"),  # the default
}
print("expected: the mean of the pictures' values from each, as the name of the reduction says")
gaps = {}
for name, metric in metrics.items():
    together, alone = metric(), []
    for pair in zip(decoded, pictures):
        alone.append(float(metric()(*pair)))
        together.update(*pair)
    gaps[name] = float(together.compute()) - sum(alone) / len(alone)
    print(f"{name}: of the set {float(together.compute()):.3f}, mean of the pictures {sum(alone) / len(alone):.3f}")
print("why it matters: papers and programs print means over pictures; the other figure is lower by as much as a new model")
print("brings, and mostly tells of the worst few pictures")
off = gaps.pop("PSNR")
raise SystemExit(0 if off < -1 and all(abs(gap) < 1e-3 for gap in gaps.values()) else "changed: PSNR is a mean, or others are not")
PY
