# shellcheck shell=bash
# Variables for any run on accelerators; read before Python starts:   source launch/env.sh
#
# What to change: JAX_COMPILATION_CACHE_DIR, to a folder that all hosts see. What is set already stays as it is.

# Compiled programs are kept there, so a continued run does not compile again. Only the first host writes the folder:
# with a folder of their own, the other hosts would compile at every start. It holds code that will be run, so share it
# with nobody.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/nft_jax/xla}
# JAX takes three quarters of a GPU's memory at the start; preflight's tables assume nine tenths. No effect on TPUs.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}
# NCCL reports why machines cannot talk to each other, and nothing else.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# Python writes each line of the log at once.
export PYTHONUNBUFFERED=1
# No XLA_FLAGS and no LIBTPU_INIT_ARGS: they differ between versions of XLA, and an unknown flag ends the process. We
# have measured none that helps.
