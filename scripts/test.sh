#!/usr/bin/env bash
# The tests, doctests included; sets everything up first on a new machine. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
# A process for each core, with one thread each: more threads than cores would slow all of them down.
exec env OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile "$@"
