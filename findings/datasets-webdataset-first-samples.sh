#!/usr/bin/env bash
# Hugging Face datasets types a WebDataset by its first five samples: then 6.9 becomes 6, and a caption that comes later is dropped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1

HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work" <<'PY'
import io
import json
import sys
import tarfile
from importlib.metadata import version

from datasets import disable_progress_bars, load_dataset

disable_progress_bars()
print("versions:", ", ".join(f"{name} {version(name)}" for name in ("datasets", "pyarrow")))
SCORES = [6, 6, 6, 6, 6, 6.9]


def load(scores, captioned):
    """Write a tar of samples with a score, some with a caption; return its rows as datasets gives them."""
    path = f"{sys.argv[1]}/{len(captioned)}.tar"
    with tarfile.open(path, "w") as tar:
        for number, score in enumerate(scores):
            members = {"json": json.dumps({"score": score})} | ({"txt": "a cat"} if number in captioned else {})
            for suffix, text in members.items():
                info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
    return load_dataset("webdataset", data_files=path, split="train", cache_dir=f"{path}.cache")


late = load(SCORES, {5})
early = load([float(score) for score in SCORES], set(range(6)))
print("expected: six scores, of which the last is 6.9, and the caption of the last sample")
print("scores:", [row["json"]["score"] for row in late])
print("members:", sorted(late.column_names), "- with a caption in every sample:", sorted(early.column_names))
print("with 6.0 in the first five:", [row["json"]["score"] for row in early])
print("why it matters: aesthetic scores are rounded down and captions are gone, with no error and no warning")
is_so = late[5]["json"]["score"] == 6 and "txt" not in late.column_names
sys.exit(0 if is_so and early[5] == early[5] | {"txt": "a cat", "json": {"score": 6.9}} else "changed: all is there")
PY
