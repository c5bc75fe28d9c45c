#!/bin/sh
# Every check, in a fresh environment: sh tests/run.sh [pytest arguments]
# REPROKIT_TEST_VENV chooses the environment's folder, which is made anew; REPROKIT_TORCH another build of PyTorch.
set -eu

cd "$(dirname "$0")/.."
venv="${REPROKIT_TEST_VENV:-$PWD/.reprokit/readme/test-venv}"
torch="${REPROKIT_TORCH:-torch==2.13.0}"

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "tests: Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1)." >&2
    exit 2
}
mkdir -p "$(dirname "$venv")"
python3 -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# shellcheck disable=SC2086 # REPROKIT_TORCH may be several words
pip install $torch
pip install ".[sklearn,pandas,conda,examples,mount,notebook,lightning,transformers,test,dev]" "tensorflow-cpu==2.21.*" "keras==3.15.*"

PATH="$venv/bin:$PATH"
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" # the tree itself is checked, not the installed copy
export PATH PYTHONPATH
ruff check .
ruff format --check .
mypy reprokit examples
lint-imports
pytest -n 2 "$@"
