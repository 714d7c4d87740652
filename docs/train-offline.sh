#!/usr/bin/env bash
# Trains semdis on a machine without a network: run by `make pack-training`'s folder, which holds this file as run.sh,
# wheels/ and data/. The machine brings Python with torch and NumPy; everything else is unpacked from the wheels.
#
#   OUT=results bash run.sh [options of semdis train]
#
# Leaves in OUT: the checkpoint in pieces of at most 16 MiB with their sha256, the log and the last pictures. Run again
# after a stop to go on. To put the pieces together: cat model.safetensors.part-* > model.safetensors
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
out="${OUT:-$PWD/results}"
python="${PYTHON:-python3}"
work="${WORK:-$here/work}"

mkdir -p "$out" "$work/site"
for wheel in "$here"/wheels/*.whl; do
  "$python" -m zipfile -e "$wheel" "$work/site"
done
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"

status=0
"$python" -m semdis_cli train "$here/data" -o "$work/model" --weights-dtype bfloat16 "$@" || status=$?

if [ -f "$work/model/model.safetensors" ]; then
  rm -f "$out"/model.safetensors.part-*
  cp "$work/model/config.json" "$work/model/log.jsonl" "$out/"
  cp "$(ls "$work"/model/pictures/*.png | tail -n 1)" "$out/pictures.png"
  split --bytes=16M --numeric-suffixes "$work/model/model.safetensors" "$out/model.safetensors.part-"
  (cd "$work/model" && sha256sum model.safetensors) > "$out/SHA256SUMS"
fi
exit "$status"
