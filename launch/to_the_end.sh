#!/usr/bin/env bash
# The first process of a container: runs a training command, passes SIGTERM on to it, and ends with status 75 when the
# run stopped before its end. (A run that is asked to stop saves and ends with status 0. Kubernetes would take that for
# finished.) Any status but 0 is passed through.
#
#   bash launch/to_the_end.sh WORKDIR COMMAND ...
#   bash launch/to_the_end.sh runs/first python -m experiments.train gsm8k --workdir runs/first
#
# What to change: nothing. gke_jobset.yaml uses it.
set -u
folder=$1
shift
asked=
"$@" &
child=$!
trap 'asked=yes; trap "" TERM; kill -TERM "$child"' TERM
wait "$child"
status=$?
# The signal ended the first wait, not the child.
if [ -n "$asked" ]; then
  wait "$child"
  status=$?
fi
if [ "$status" = 0 ] && ! grep -qs '"finished": true' "$folder/summary.json"; then
  status=75
fi
exit "$status"
