#!/usr/bin/env bash
# The tests, doctests included; sets everything up first on a new machine. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
exec python -m pytest "$@"
