#!/usr/bin/env bash
# BatchNorm and GroupNorm discriminators on CIFAR-10, scored and compared. The data set is downloaded into data/ once.
# Arguments go to both `gannorm train` calls, for example: scripts/train_cifar10.sh --steps 2000 --seed 1
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
for norm in batch group; do
  gannorm train --config configs/cifar10.yaml --data.download true --model.discriminator.norm "$norm" "$@"
done
gannorm evaluate runs/cifar10 --fid_solver symmetric
gannorm compare runs/cifar10 --output report/cifar10
