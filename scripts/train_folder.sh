#!/usr/bin/env bash
# BatchNorm and GroupNorm discriminators on your own images, compared: scripts/train_folder.sh path/to/images [flags …]
# Flags are those of `gannorm train`, for example --steps 2000 --data.skip_bad true; the names of the runs and their folder
# are set here. If it is stopped, the same command continues; with other flags it names the difference.
set -euo pipefail
if [ $# -lt 1 ] || [ ! -d "$1" ]; then
  echo "scripts/train_folder.sh needs a folder of images: got ${1:-none}; give path/to/images." >&2
  exit 2
fi
root=$(cd "$1" && pwd)
shift
if [ -z "$(find -L "$root" -type f -print -quit)" ]; then
  echo "scripts/train_folder.sh needs a folder of images: $root holds no file; give path/to/images." >&2
  exit 2
fi
cd "$(dirname "$0")/.."
source scripts/setup.sh
check train "$@"
setup
study=folder_$(basename "$root")
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
gannorm train --config folder --data.root "$root" "$@" --print_config > "$folder/base.yaml"
cat > "$folder/$study.yaml" <<END
base: base.yaml
factors: {model.discriminator.norm: [batch, group]}
evaluate: false
END
gannorm study "$folder/$study.yaml" --report "report/$study"
