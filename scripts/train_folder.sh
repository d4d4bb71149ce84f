#!/usr/bin/env bash
# BatchNorm and GroupNorm discriminators on your own images, compared: scripts/train_folder.sh path/to/images [flags …]
# Flags go to `gannorm train`, for example --steps 2000 --data.skip_bad true. The same command goes on where it stopped: a
# normalizer that is done is not repeated, and one that was interrupted is resumed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
if [ $# -lt 1 ]; then
  echo "scripts/train_folder.sh needs a folder of images: got none; give path/to/images." >&2
  exit 2
fi
root=$1
study=folder_$(basename "$root")
shift
for norm in batch group; do
  run=runs/$study/$norm
  if [ ! -e "$run/config.yaml" ]; then
    gannorm train --config configs/folder.yaml --data.root "$root" --model.discriminator.norm "$norm" "$@" \
      --output runs --study "$study" --name "$norm"
  elif ! grep -qsE '"state": "(finished|diverged)"' "$run/status.json"; then
    gannorm train --resume "$run"
  fi
done
gannorm compare "runs/$study" --output "report/$study"
