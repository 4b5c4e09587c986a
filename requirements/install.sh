#!/bin/sh
# install.sh STACK ARGUMENT...: installs a stack's pinned versions into the active environment, and what uv's further
# arguments name. TORCH_INDEX has torch's CPU wheels; CCL_INDEX, where it is set, has the binding of the backend ccl.
set -eu
stack=$1
shift
here=$(dirname "$0")

answers() {
  python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=10)' "$1" 2>/dev/null
}

[ "$stack" = intel ] || CCL_INDEX=

indexes=
if [ -n "${TORCH_INDEX:-}" ] && answers "$TORCH_INDEX"; then
  indexes="--index $TORCH_INDEX"
else
  echo "WARNING: no answer from TORCH_INDEX=${TORCH_INDEX:-}: the package registry's torch is installed," \
    "which computes the same and brings 4 GB of CUDA libraries" >&2
fi
if [ -n "${CCL_INDEX:-}" ]; then
  indexes="$indexes --index $CCL_INDEX"
  set -- --requirement "$here/intel-ccl.in" "$@"
fi

# The constraints name one version of each package, so the best match of all indexes is the wanted one.
# shellcheck disable=SC2086
uv pip install --compile-bytecode $indexes --index-strategy unsafe-best-match \
  --constraint "$here/$stack.txt" --requirement "$here/$stack.in" "$@" && exit
[ -z "${CCL_INDEX:-}" ] || echo "Was it CCL_INDEX=$CCL_INDEX that did not answer? Name a mirror of it," \
  "or leave the binding of the backend ccl out with an empty CCL_INDEX (gloo needs none)." >&2
exit 1
