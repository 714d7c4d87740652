#!/usr/bin/env bash
# torchmetrics' mean squared error of two uint8 pictures that differ by 16 levels everywhere is 0: squares wrap at 256.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics import MeanSquaredError
from torchmetrics.image import PeakSignalNoiseRatio

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "torch", "numpy")))
reference = torch.full((3, 64, 64), 100, dtype=torch.uint8)
decoded = reference + 16


def measured(metric, *pictures):
    metric.update(*pictures)
    return float(metric.compute())


errors = {str(dtype): measured(MeanSquaredError(), decoded.to(dtype), reference.to(dtype)) for dtype in (torch.uint8, torch.float32)}
psnr = measured(PeakSignalNoiseRatio(data_range=255.0), decoded, reference)
print("expected: 256 for both dtypes, as PSNR of the same package converts uint8 (24.05 dB), or an error as from torch's mse_loss")
print("mean squared error:", ", ".join(f"{dtype} {error:g}" for dtype, error in errors.items()) + f"; PSNR of uint8: {psnr:.2f} dB")
print("why it matters: errors of decoded pictures, which are uint8, come out below 256 however large they are; nothing warns")
wrong = errors["torch.uint8"] == 0 and errors["torch.float32"] == 256 and abs(psnr - 24.05) < 0.01
raise SystemExit(0 if wrong else "changed: uint8 is squared in full, or refused")
PY
