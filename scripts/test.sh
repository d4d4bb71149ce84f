#!/usr/bin/env bash
# The tests that take less than some seconds each, doctests included; sets everything up first on a new machine.
# Arguments go to pytest: `scripts/test.sh -m "not exhaustive"` runs the slow ones too, as .ci/run does.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
# A process for each core, with one thread each: more threads than cores would slow all of them down.
exec env OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile -m "not slow and not exhaustive" "$@"
