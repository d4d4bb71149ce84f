#!/usr/bin/env bash
# BatchNorm and GroupNorm discriminators on CIFAR-10, scored and compared. The data set is downloaded into data/ once, and
# torch-fidelity's Inception weights with it. If it is stopped, run it again to continue. Arguments go to `gannorm study`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
check study "$@"
setup
exec gannorm study configs/studies/cifar10.yaml --report report/cifar10 "$@"
