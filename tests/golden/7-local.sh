#!/usr/bin/env bash
# Rendered by vllm-hpc VERSION for run.
# Runs 2 ranks on this machine: TP 2 x PP 1 x DP 1.
# The local scheduler starts this script: its supervisor watches it, and sweeps up behind it.
# shellcheck disable=SC2016,SC2034,SC2154,SC2317 # quoted on purpose; set, used or called by lifecycle.sh
set -uo pipefail
export VLLM_HPC_TASK=0

# What every job does in the same way (attempts, signals, requeues): lifecycle.sh, if unchanged since the submission.
job=/scratch/runs/run
trap 'drain_due=1' USR2 # the walltime may be near before lifecycle.sh is read
lifecycle="$(cat "$job/lifecycle.sh")" || { echo "vllm-hpc: cannot read $job/lifecycle.sh" >&2; exit 1; }
digest="$(printf '%s\n' "$lifecycle" | sha256sum)" || { echo "vllm-hpc: sha256sum is not found in PATH" >&2; exit 1; }
if [ "$digest" != "0000000000000000000000000000000000000000000000000000000000000000  -" ]; then
  echo "vllm-hpc: $job/lifecycle.sh is not the one that this job was submitted with: submit it again" >&2; exit 1
fi
eval "$lifecycle"
lead_s=120 time_limit_s='' max_requeues=10 begin_attempt

# The same Python as the one that submitted: submitit finds its plugin in it, torchrun its workers.
export PATH=/opt/venv/bin:"$PATH"
rank_environment /opt/venv/bin
# Ranks that share cores would spin against each other: each gets its part of them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) > 2 ? $(nproc) / 2 : 1 ))}"

# One machine: no nodes to watch, and everything over the loopback device, on a port tested free.
nodes=()
VLLM_HPC_HEAD=127.0.0.1
VLLM_HPC_PORT="$(python -P -m vllm_hpc.in_job rendezvous "$VLLM_HPC_JOB_ID")" || exit 1
export VLLM_HPC_HEAD VLLM_HPC_PORT VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo

# On this machine: torchrun starts one rank per GPU. "exec": ranks notice when this script is killed, torchrun's parent.
launch() {
  begin_ranks
  exec python -P -m torch.distributed.run --nnodes=1 --nproc-per-node=2 \
    --rdzv-backend=vllm-hpc --rdzv-conf=rank=0 \
    --rdzv-endpoint="$VLLM_HPC_HEAD:$VLLM_HPC_PORT" --max-restarts=0 -m vllm_hpc.in_job rank "$VLLM_HPC_FOLDER"
}
# Waits for it, and has the supervisor run the job again where rows are left.
run_work torchrun true
