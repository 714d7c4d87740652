#!/usr/bin/env bash
# FID of torchmetrics antialiases by default: of pictures above 299 px it is another than that of torch-fidelity, whose network it runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 torchmetrics==1.9.0 \
  torch-fidelity==0.4.0 numpy==2.4.6 scipy==1.17.1

"$work/venv/bin/python" - "$work/weights.pt" <<'PY'
import sys
from importlib.metadata import version

import torch

try:
    import torchvision
except RuntimeError:  # its CUDA build beside a CPU build of torch: declare the operators, none is called here
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}() -> ()")
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance


class RandomWeights(FeatureExtractorInceptionV3):
    def load_state_dict(self, state):  # nothing is downloaded: the published weights are not needed to see the resizing
        return None


print("versions:", ", ".join(f"{name} {version(name)}" for name in ("torchmetrics", "torch-fidelity", "torch", "torchvision")))
weights, layer = sys.argv[1], 64  # features of the first pooling, so that few pictures do
torch.manual_seed(0)
torch.save({}, weights)
torch.save(RandomWeights("random", [str(layer)], feature_extractor_weights_path=weights).state_dict(), weights)
network = FeatureExtractorInceptionV3("same", [str(layer)], feature_extractor_weights_path=weights)

coarse = torch.rand(96, 3, 32, 32)
originals = torch.nn.functional.interpolate(coarse, size=512, mode="bicubic").mul(255).clamp(0, 255).byte()
decoded = (originals + 15 * torch.randn(originals.shape)).clamp(0, 255).byte()  # with noise of 15 levels


def distance(**options):
    metric = FrechetInceptionDistance(feature=layer, feature_extractor_weights_path=weights, **options)
    for real, pictures in ((True, originals), (False, decoded)):
        for batch in pictures.split(16):
            metric.update(batch, real=real)
    off = (metric.inception(decoded[:16]) - reference).norm() / reference.norm()
    return float(metric.compute()), float(off)


reference = network(decoded[:16])[0]
(default, default_off), (plain, plain_off) = distance(), distance(antialias=False)
print("expected: torchmetrics names torch-fidelity as its network, so the same features of the same pictures of 512 px")
print(f"by default: features {default_off:.2%} off torch-fidelity's, distance of noisy pictures {default:.4g}")
print(f"with antialias=False: features {plain_off:.2%} off, distance {plain:.4g}")
print("why it matters: antialiasing hides what a decoder adds or loses in fine detail, so an rFID of 512 px is not to be put beside others'")
raise SystemExit(0 if default_off > 0.02 and plain_off < 1e-4 and default < 0.7 * plain else "changed: the features agree")
PY
