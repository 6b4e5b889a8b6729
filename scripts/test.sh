#!/usr/bin/env bash
# Sets up .venv, checks style and type hints and runs the tests; --slow runs the slow ones too. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --slow ]; then
  shift
  set -- -m "" "$@"
fi
scripts/install.sh dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/pyright
.venv/bin/pytest -n auto --maxprocesses 4 "$@"
