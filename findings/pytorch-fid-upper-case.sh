#!/usr/bin/env bash
# pytorch-fid leaves out pictures named .JPEG, as all of ImageNet are, and those in subfolders: a mixed folder gives a figure of the rest.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 pytorch-fid==0.3.0 \
  numpy==2.4.6 scipy==1.17.1 pillow==13.0.0

"$work/venv/bin/python" - "$work" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

try:
    import torchvision
except RuntimeError:  # its CUDA build beside a CPU build of torch: declare the operators, none is called here
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}() -> ()")
from pytorch_fid.fid_score import compute_statistics_of_path


class Red(torch.nn.Module):
    """Stands for the network, whose weights would be downloaded: its features are the mean of the red channel."""

    def forward(self, batch):
        return [batch[:, :2].mean(dim=(2, 3), keepdim=True)]


print("versions:", ", ".join(f"{name} {version(name)}" for name in ("pytorch-fid", "torch", "torchvision", "pillow")))
folder = Path(sys.argv[1], "pictures")
(folder / "n01440764").mkdir(parents=True)
names = ["a.jpg", "b.jpg", "c.png", "d.JPEG", "e.JPEG", "f.PNG", "n01440764/g.jpg"]
for name in names:
    Image.new("RGB", (32, 32), (0 if name in {"a.jpg", "b.jpg", "c.png"} else 255, 0, 0)).save(folder / name)
mean, _ = compute_statistics_of_path(str(folder), Red(), batch_size=1, dims=2, device="cpu", num_workers=0)
print("expected: statistics of all seven pictures, four of them red, or a word about those that are left out")
print(f"mean of the red channel: {mean[0]:.4f}; of all seven it is {4 / 7:.4f}, of a.jpg, b.jpg and c.png alone 0")
print("why it matters: rFID is mostly of ImageNet, whose names end in .JPEG: a folder that has others too gives a figure of those alone")
raise SystemExit(0 if abs(mean[0]) < 0.01 else "changed: names in upper case or subfolders count")
PY
