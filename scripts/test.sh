#!/usr/bin/env bash
# The tests that take less than some seconds each, doctests included; sets everything up first on a new machine.
# Arguments go to pytest: `scripts/test.sh -m "not exhaustive"` runs the slow ones too, as .ci/run does.
set -euo pipefail
cd "$(dirname "$0")/.."
for argument in "$@"; do
  case $argument in
    tests/* | gannorm/*)
      if [ ! -e "${argument%%::*}" ]; then
        echo "scripts/test.sh takes tests that are there: got $argument; give for example tests/test_cli.py." >&2
        exit 2
      fi
      ;;
  esac
done
source scripts/setup.sh
setup
# A process for each core, with one thread each: more threads than cores would slow all of them down.
exec env OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile -m "not slow and not exhaustive" "$@"
