#!/bin/sh
# Every check, in a fresh environment: sh tests/run.sh [pytest arguments]
# REPROKIT_TEST_VENV chooses the environment's folder, which is made anew; REPROKIT_TORCH another build of PyTorch.
set -eu

cd "$(dirname "$0")/.."
venv="${REPROKIT_TEST_VENV:-$PWD/.reprokit/readme/test-venv}"
sh tests/setup.sh "$venv"

PATH="$venv/bin:$PATH"
export PATH
unset PYTHONDONTWRITEBYTECODE # thousands of processes would each compile what they import
ruff check .
ruff format --check .
mypy reprokit examples
lint-imports
if [ -n "${REPROKIT_TEST_AFTER:-}" ]; then # a file: what the tests need beside this is being fetched until it is there
    until [ -e "$REPROKIT_TEST_AFTER" ]; do sleep 1; done
fi
# a worker that is done takes tests over from the other's end: what a module's tests share is made once
pytest -n 2 --dist worksteal "$@"
