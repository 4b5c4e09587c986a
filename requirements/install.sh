#!/bin/sh
# install.sh STACK ARGUMENT...: installs a stack's pinned versions into the active environment, and what uv's further
# arguments name of them. Each file is held against its hash, and each package has one index: torch's CPU wheels come
# from TORCH_INDEX, the binding of the backend ccl, where it is set, from CCL_INDEX, all else from the package registry.
set -eu
stack=$1
shift
here=$(dirname "$0")

answers() {
  python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=10)' "$1" 2>/dev/null
}

# Wheels alone: to build one would run code that no hash was held against (source.txt, below, apart).
install() {
  uv pip install --compile-bytecode --no-build "$@"
}

[ "$stack" = intel ] || CCL_INDEX=

if [ -n "${TORCH_INDEX:-}" ] && answers "$TORCH_INDEX"; then
  install --require-hashes --no-deps --default-index "$TORCH_INDEX" --requirement "$here/$stack-cpu.txt"
  set -- --constraint "$here/$stack-cpu.txt" "$@"
else
  echo "WARNING: no answer from TORCH_INDEX=${TORCH_INDEX:-}: the package registry's torch is installed," \
    "which computes the same and brings 4 GB of CUDA libraries" >&2
fi
# What is published as source alone is built first, by tools that are held against hashes too.
uv pip install --compile-bytecode --no-deps --require-hashes --requirement "$here/source.txt" \
  --build-constraints "$here/build.txt" --require-build-hashes
install --require-hashes --constraint "$here/$stack.txt" --requirement "$here/$stack.in" "$@"
# Intel publishes no hash of it; one that is written into the file counts.
[ -z "${CCL_INDEX:-}" ] || install --no-deps --default-index "$CCL_INDEX" --requirement "$here/intel-ccl.in" || {
  echo "Was it CCL_INDEX=$CCL_INDEX that did not answer? Name a mirror of it," \
    "or leave the binding of the backend ccl out with an empty CCL_INDEX (gloo needs none)." >&2
  exit 1
}
