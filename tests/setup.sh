#!/bin/sh
# What working on reprokit takes, in a fresh environment: sh tests/setup.sh [FOLDER], by default .venv
# REPROKIT_TORCH chooses another build of PyTorch: pip arguments, such as "torch==2.13.0 --index-url URL".
set -eu

folder="${1:-.venv}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
cd "$(dirname "$0")/.."

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: Python 3.11 or newer is needed; python3 is $(python3 --version 2>&1)." >&2
    exit 2
}
python3 -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
# shellcheck disable=SC2086 # REPROKIT_TORCH may be several words
pip install ${REPROKIT_TORCH:-torch==2.13.0}
pip install --editable \
    ".[sklearn,xgboost,lightgbm,pandas,conda,examples,mount,notebook,lightning,transformers,mlflow,docs,test,dev]" "tensorflow-cpu==2.21.*" "keras==3.15.*"
