#!/usr/bin/env bash
# This machine: one process that drives all its devices (a laptop, or a node with several GPUs).
#
#   bash launch/this_machine.sh quickstart
#   bash launch/this_machine.sh local --policy.path FOLDER --data.source questions.jsonl --mesh.fsdp 8
#
# What to change: EXTRA, the JAX for the devices ("" for CPU, jax[cuda13], jax[tpu]).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/env.sh
source launch/env.sh
EXTRA=${EXTRA:-}
if [ ! -x .venv/bin/python ]; then
  python3 -m venv .venv
  .venv/bin/pip install -q -r requirements.txt ${EXTRA:+"$EXTRA"}
fi
exec .venv/bin/python -m experiments.train "$@"
