#!/usr/bin/env bash
# The main job: train a BatchNorm and a GroupNorm discriminator on embedded digits, over several seeds, and show which of
# them judges images and which judges batches. Installs everything first on a new machine. If it is stopped, run it again
# to continue.
# Arguments go to `gannorm study`, for example --jobs 1. For other seeds, copy gannorm/recipes/demo.yaml and change them.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
check study "$@"
setup
exec gannorm study demo --output runs --report report "$@"
