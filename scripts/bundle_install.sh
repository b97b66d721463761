#!/bin/sh
# Install gdiff from the wheels beside this file, without a network; jax must be there.
#     sh install.sh [PYTHON [PIP OPTIONS]]
# Packages that are there in a version that will do are left alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${1:-python3}
[ $# -eq 0 ] || shift
"$python" -c 'import importlib.util, sys; importlib.util.find_spec("jax") or sys.exit("error: " + sys.executable + " has no jax: install it first, or give another Python to install.sh")'
packed=$(cat "$here/python-version")
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$found" = "$packed" ] || echo "note: the wheels are for Python $packed, and $python is $found" >&2
"$python" -m pip install --quiet --no-index --find-links "$here" "$@" -r "$here/requirements.txt"
# gdiff itself asks for TensorFlow Datasets, which only dataset=cifar10 and its like need.
"$python" -m pip install --quiet --no-index --no-deps --force-reinstall "$@" "$here"/gdiff-*.whl
echo "gdiff is installed; try: $python -m gdiff sample dataset=moons"
