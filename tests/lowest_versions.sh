#!/usr/bin/env bash
# Do the core tests pass with every dependency at the lowest version that pyproject.toml declares? In an environment of
# its own (about 6 GB, in .venv-lowest, removed at the end). Deprecations that old packages meet in new ones are no
# failures here: the tests at present versions treat every warning as an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh
setup
environment=$PWD/.venv-lowest
trap 'rm -rf "$environment"' EXIT
uv venv --quiet --clear "$environment"
uv pip install --quiet --python "$environment/bin/python" --resolution lowest-direct --editable '.[dev]'
export OMP_NUM_THREADS=1
# Core: what a run, a probe, a score and a comparison need; not the laws that depend on no library's version.
"$environment/bin/python" -m pytest -q -p no:cacheprovider -o filterwarnings=ignore -m 'not slow and not exhaustive' \
  tests/test_cli.py tests/test_rundir.py tests/isolate tests/data tests/models tests/normalizers \
  tests/training tests/evaluation tests/studies/test_compare.py tests/studies/test_report.py tests/studies/test_grid.py \
  -n auto --dist loadfile "$@"
