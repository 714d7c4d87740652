#!/bin/bash
# A process for each of some GPUs, each of which writes a part of one set into a log of its own: on one machine, or on
# several that see the same folders and have no scheduler. On one machine `semdis encode --devices` does it as well.

# To edit. With two machines of four GPUs: parts=8 on both, and first=4 on the second one.
photos=/data/photos
latents=/data/latents
options=(--size 256)
gpus=(0 1 2 3)
first=0
parts=${#gpus[@]}
workers=$(($(nproc) / ${#gpus[@]}))

trap 'kill $(jobs -p)' TERM
for i in "${!gpus[@]}"; do
  part=$((first + i))/$parts
  CUDA_VISIBLE_DEVICES=${gpus[i]} semdis encode "$photos" -o "$latents" "${options[@]}" \
    --part "$part" --workers "$workers" &> "semdis-${part/\//-of-}.log" &
done
wait

# The last part has finished the set: this says what there is, or which parts are to be run again.
semdis finish "$latents"
