# Sourced by the other scripts. `setup` makes .venv with everything installed, once: a stamp newer than pyproject.toml means
# done. `check` refuses wrong arguments before that. Needs only python3 (3.10 or newer, with venv). uv does the installing
# where it can be had; otherwise pip does.

# check COMMAND ARGUMENT…: ends the script with one line and status 2 if `gannorm COMMAND` would refuse an argument.
check() {
  require_python
  case " ${*:2} " in
    *" --help "* | *" -h "*)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" # the script's first comment
      exit 0
      ;;
  esac
  python3 -B scripts/arguments.py "$@" || exit
}

require_python() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "gannorm needs python3 3.10 or newer: got $(python3 --version 2>&1); install a newer one." >&2
    exit 2
  }
}

setup() {
  local stamp=.venv/.installed
  if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    require_python
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
