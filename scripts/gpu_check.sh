#!/usr/bin/env bash
# The checks that need a GPU, in at most 8 minutes: the tests that need one, training with and without a graph, 2,000
# steps of CIFAR-10 in both precisions, an evaluation of 10,000 images. Writes gpu_check.json. It uses the python3 that is
# there, with its packages: sections whose packages are missing are skipped by name. For real images put cifar10-jpeg.tar.xz into data/.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec python3 -m benchmarks.gpu_check "$@"
