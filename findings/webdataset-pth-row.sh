#!/usr/bin/env bash
# WebDataset's `.pth` member of one row of a batch holds the whole batch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 torch==2.13.0 numpy==2.4.6

"$work/venv/bin/python" - "$work/out.tar" <<'PY'
import sys
import tarfile
from importlib.metadata import version

import torch
import webdataset

print("versions:", ", ".join(f"{name} {version(name)}" for name in ("webdataset", "torch")))
batch = torch.zeros(64, 16, 8, 8, dtype=torch.bfloat16)  # 64 latents of 2,048 bytes
with webdataset.TarWriter(sys.argv[1]) as writer:
    writer.write({"__key__": "view", "pth": batch[0]})
    writer.write({"__key__": "copy", "pth": batch[0].clone()})
with tarfile.open(sys.argv[1]) as tar:
    sizes = {member.name: member.size for member in tar.getmembers()}
print("expected: two members of 2,048 bytes and a header of one or two thousand")
for name, size in sizes.items():
    print(f"{name}: {size:,} bytes")
print("why it matters: a set of latents written row by row from batches is as many times too large as a batch has images")
raise SystemExit(0 if sizes["view.pth"] > 64 * 2048 and sizes["copy.pth"] < 8192 else "changed: the row alone is written")
PY
