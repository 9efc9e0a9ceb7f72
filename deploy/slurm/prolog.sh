#!/bin/sh
# Slurm Prolog: keeps a job off a node whose GPUs or links are known to be bad. A failed Prolog drains the node
# and requeues the job. Asks only this node's agent; an agent that does not answer in two seconds stops nobody.
set -u
address="${WELLFED_METRICS_ADDRESS:-127.0.0.1:9812}"
metrics=$(curl -fsS -m 2 "http://$address/metrics" 2>/dev/null) || exit 0

bad=$(printf '%s\n' "$metrics" | awk '
    /^wellfed_gpu_remap_failed[{ ]/ && $NF > 0 { print "GPU row remapping failed: " $1 }
    /^wellfed_collector_stuck[{].*nvml/ && $NF > 0 { print "the NVIDIA driver hangs" }
')
if [ -n "$bad" ]; then
    printf 'wellfed: node refused\n%s\n' "$bad" >&2
    exit 1
fi
exit 0
