#!/bin/bash
# Have a Ray cluster encode a folder that all of its nodes see; run it from anywhere that reaches the head's dashboard.
#
#     ./submit.sh        # again: what is done is not done again
#
# The command itself runs on the head, which needs no GPU. semdis and Ray are installed on every node, in the same
# versions. Needs `pip install "ray[default]"` here and there, for `ray job submit`.
#
# To edit:
head=http://127.0.0.1:8265
photos=/data/photos
latents=/data/latents
options=(--size 256)
place=(--gpus-per-worker 1) # or (--device cpu --cpus-per-worker 4)

set -u
# 3: some images cannot be used, see report.json in the set. To Ray all but 0 is a failure.
# shellcheck disable=SC2016 # the head expands it
command='semdis encode "$@" --engine ray; code=$?; [ "$code" -eq 3 ] || exit "$code"'
exec ray job submit --address "$head" -- sh -c "$command" semdis "$photos" -o "$latents" "${place[@]}" "${options[@]}"
