# Sourced by the other scripts: makes .venv with everything installed, once. A stamp newer than pyproject.toml means done.
# Needs only python3 (3.10 or newer, with venv). uv does the installing where it can be had; otherwise pip does.

setup() {
  local stamp=.venv/.installed
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
      echo "gannorm needs python3 3.10 or newer: got $(python3 --version 2>&1); install a newer one." >&2
      return 2
    }
    echo "Installing into .venv (about 6 GB with PyTorch; once) …"
    [ -x .venv/bin/python ] || python3 -m venv .venv || return
    if .venv/bin/python -m pip install --quiet --disable-pip-version-check uv; then
      # Compiled once here, or every command of a machine that may not write bytecode would compile torch again: 7 s each.
      .venv/bin/python -m uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable '.[dev]' || return
    else
      .venv/bin/python -m pip install --quiet --editable '.[dev]' || return
    fi
    touch "$stamp"
  fi
  export PATH="$PWD/.venv/bin:$PATH"
}
