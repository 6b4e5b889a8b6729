#!/usr/bin/env bash
# Makes .venv, or reuses it, and installs the project there: scripts/install.sh [extra, like dev or gpu].
# PYTHON names the interpreter; by default the first one found of the versions that TensorFlow supports.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

if [ ! -x .venv/bin/pip ]; then
  candidates=(python3 python3.13 python3.12 python3.11)
  for python in "${PYTHON:-${candidates[@]}}"; do
    ! supported "$python" || break
  done
  if ! supported "$python"; then
    echo "No Python 3.11, 3.12 or 3.13 was found; install one, or name it: PYTHON=/path/to/python $0" >&2
    exit 1
  fi
  "$python" -m venv .venv
fi
installed=".venv/installed${1:+-$1}"
if [ ! "$installed" -nt pyproject.toml ]; then
  .venv/bin/pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
  touch "$installed"
fi
