#!/bin/sh
# Slurm Epilog: tells syslog when GPUs of this node still have processes after the job ended, which is how the next
# job on them starts starved. Never fails, so it never drains.
set -u
address="${WELLFED_METRICS_ADDRESS:-127.0.0.1:9812}"
[ "${SLURM_JOB_GPUS:-}" ] || exit 0
curl -fsS -m 2 "http://$address/metrics" 2>/dev/null |
    awk '/^wellfed_gpu_processes[{]/ && $NF > 0' |
    while read -r line; do
        logger -t wellfed "after job ${SLURM_JOB_ID:-?}: still held: $line"
    done
exit 0
