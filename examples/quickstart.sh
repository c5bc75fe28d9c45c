#!/bin/sh
# Install reprokit into a fresh environment, train a small model, and reproduce it bit for bit.
# Everything it writes is below .reprokit/readme/, which git ignores. Run again, it reuses the environment.
set -eu

cd "$(dirname "$0")/.."
base="$PWD/.reprokit/readme"
venv="${REPROKIT_VENV:-$base/venv}"
torch="${REPROKIT_TORCH:-torch==2.13.0}" # a requirement, or pip's arguments: which index, which build

command -v git >/dev/null 2>&1 || { echo "quickstart: git is needed and not installed." >&2; exit 2; }
python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    echo "quickstart: Python 3.11 or newer is needed; found: $(python3 --version 2>&1 || true)." >&2
    exit 2
fi

mkdir -p "$base"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "== installing $torch and reprokit into $venv: once, some minutes"
# shellcheck disable=SC2086 # REPROKIT_TORCH may be several words
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check $torch
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check ".[examples]"

export REPROKIT_HOME="$base/home" REPROKIT_CACHE="$base/cache" REPROKIT_REGISTRY="$base/registry"
PATH="$venv/bin:$PATH"
export PATH

echo "== reprokit run recipes/digits-torch.yaml"
reprokit run recipes/digits-torch.yaml
run="$(reprokit show latest --json | python -c 'import json, sys; print(json.load(sys.stdin)["run_id"])')"

echo "== reprokit show latest"
reprokit show latest

echo "== reprokit reproduce $run"
reprokit reproduce "$run"

cat <<END
== what next
The environment is $venv. In this shell:

  export PATH="$venv/bin:\$PATH"
  export REPROKIT_HOME="$REPROKIT_HOME" REPROKIT_CACHE="$REPROKIT_CACHE" REPROKIT_REGISTRY="$REPROKIT_REGISTRY"

  reprokit ls                                                     the run and its repetition
  reprokit run recipes/digits-torch.yaml -p learning_rate=0.1     another value
  reprokit diff $run latest                   where they differ, from which epoch on
  reprokit reproduce $run --with threads=1    what one thing changes
  python -m pip install matplotlib jinja2 && reprokit export $run --as report -o .reprokit/report.html
  python -m pip install ".[ui]" && reprokit ui                    all of it in a browser
  reprokit init YOUR_SCRIPT.py                                    a recipe for a script of yours

docs/tutorial.md builds a project from nothing.
END
