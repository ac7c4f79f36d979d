#!/usr/bin/env bash
# A slice of Cloud TPU VMs (v4 to v6e; later ones: gke_jobset.yaml): ask for it, install and run on all hosts, delete.
#
#   bash launch/tpu_slice.sh create                           ask for a slice; it comes when there is room
#   bash launch/tpu_slice.sh status                           ACTIVE: ready; SUSPENDED, FAILED: it was taken away
#   bash launch/tpu_slice.sh install                          this commit and its packages, on all hosts
#   bash launch/tpu_slice.sh run qwen2_5_math_7b --mesh.tensor 4 --batch.rows-per-micro-batch 64
#   bash launch/tpu_slice.sh log                              what the first host prints
#   bash launch/tpu_slice.sh stop                             save and end; the same `run` continues
#   bash launch/tpu_slice.sh resume qwen2_5_math_7b ...       after a preemption: delete, create, wait, install, run
#   bash launch/tpu_slice.sh delete
#
# What to change: the lines below, or set these variables. SHARED is an NFS share (Filestore) in the slice's network. It
# holds runs, models and compiled programs: every host needs them, and a preempted slice leaves nothing behind. First
# run `gcloud auth login` and `gcloud config set project`.
set -euo pipefail
cd "$(dirname "$0")/.."
NAME=${NAME:-nft}
ZONE=${ZONE:-us-east5-a}
TYPE=${TYPE:-v5p-128}                      # 64 chips: v4 and v5p count cores, v5litepod and v6e chips
VERSION=${VERSION:-v2-alpha-tpuv5}         # v6e: v2-alpha-tpuv6e; v5e: v2-alpha-tpuv5-lite; v4: tpu-ubuntu2204-base
SPOT=${SPOT---spot}                        # "" for on demand
SHARED=${SHARED:-10.0.0.2:/nft}

on() {      # HOSTS COMMAND: on the hosts of the slice (all, or a number)
  gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker="$1" --command="$2"
}

status() {
  gcloud compute tpus queued-resources describe "$NAME" --zone "$ZONE" --format='value(state.state)'
}

create() {
  gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" --zone "$ZONE" --accelerator-type "$TYPE" \
    --runtime-version "$VERSION" ${SPOT:+"$SPOT"}
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" --zone "$ZONE" --force --quiet
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git archive --format=tar.gz -o "$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$NAME":nft_jax.tar.gz --zone "$ZONE" --worker=all
  rm "$archive"
  # The machines come with Python 3.10: uv fetches a newer one.
  on all "set -e; sudo apt-get install -y -qq nfs-common; sudo mkdir -p /mnt/nft
    mountpoint -q /mnt/nft || sudo mount -t nfs $SHARED /mnt/nft
    mkdir -p nft_jax; tar xzf nft_jax.tar.gz -C nft_jax; cd nft_jax
    curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv -q --allow-existing -p 3.12 .venv
    ~/.local/bin/uv pip install -q -r requirements.txt 'jax[tpu]'"
}

run() {
  # ssh to all hosts shows nothing before it ends: hence nohup. run.pid names the training process itself.
  on all "cd nft_jax; export JAX_COMPILATION_CACHE_DIR=/mnt/nft/xla HF_HOME=/mnt/nft/huggingface; . launch/env.sh
    nohup .venv/bin/python -m experiments.train $(printf '%q ' "$@") --workdir /mnt/nft/runs/$NAME \
      >> run.log 2>&1 < /dev/null & echo \$! > run.pid"
}

resume() {
  delete
  create
  until [ "$(status)" = ACTIVE ]; do sleep "${POLL:-60}"; done
  install
  run "$@"
}

command=${1:-}
shift || true
case $command in
  create | status | install | run | resume | delete) "$command" "$@" ;;
  log) on 0 "tail -n 100 -F nft_jax/run.log" ;;
  stop) on all "kill -TERM \$(cat nft_jax/run.pid)" ;;
  *)
    sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
