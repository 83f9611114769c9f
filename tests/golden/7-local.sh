#!/usr/bin/env bash
# Rendered by vllm-hpc VERSION for run.
# Runs 2 rank(s) on this machine: TP 2 x PP 1 x DP 1.
# The local scheduler (python -m vllm_hpc.supervisor) starts this script, watches it and sweeps up behind it.
# Quoted values hold no expansions, on purpose.
# shellcheck disable=SC2016
set -uo pipefail

job=/scratch/runs/run

# The ledger: this run is attempt k of the job. noclobber makes taking a number exclusive, so a requeue gets the next.
take_attempt() {
  attempt=1
  until ( set -o noclobber
          printf '{"attempt": %d, "job_id": "%s", "host": "%s", "started_at": %s}\n' \
            "$attempt" "$VLLM_HPC_JOB_ID" "$(uname -n)" "$(date +%s.%N)" > "$job/attempts/$attempt.json" ) 2> /dev/null; do
    if [ ! -e "$job/attempts/$attempt.json" ]; then
      echo "vllm-hpc: cannot write into $job/attempts: full, over quota, or not mounted here?" >&2
      exit 1
    fi
    attempt=$((attempt + 1))
  done
}

# However this script ends, state/exit-<k>.json says so; only SIGKILL or a dead node leaves none.
cause="exit"
record_exit() {
  code=$?
  printf '{"attempt": %d, "exit_code": %d, "cause": "%s", "ended_at": %s}\n' \
    "$attempt" "$code" "$cause" "$(date +%s.%N)" > "$job/state/.exit-$attempt.json"
  mv "$job/state/.exit-$attempt.json" "$job/state/exit-$attempt.json"
}

# bash runs a trap only between commands, so the work goes into the background and this shell waits for it.
work=
stop_work() {
  cause=$1
  if [ -n "$work" ]; then kill -TERM "$work" 2> /dev/null; fi
}
wait_for_work() {
  local code
  while true; do
    wait "$work"
    code=$?
    # A trapped signal makes wait return early: go on until the work is really gone.
    kill -0 "$work" 2> /dev/null || return "$code"
  done
}

take_attempt
trap record_exit EXIT
trap 'stop_work TERM' TERM
trap 'stop_work INT' INT

# The same Python as the one that submitted. submitit finds its plugin in it, torchrun its workers.
export PATH=/opt/venv/bin:"$PATH"
export SUBMITIT_EXECUTOR=vllmhpc VLLM_HPC_FOLDER="$job" VLLM_HPC_ATTEMPT="$attempt"
export PYTHONUNBUFFERED=1 VLLM_NO_USAGE_STATS=1
# vLLM would take the same ports on every node from VLLM_PORT.
unset VLLM_PORT
# Ranks that share cores would spin against each other: each gets its part of them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) > 2 ? $(nproc) / 2 : 1 ))}"


# One machine: everything over the loopback device, on a port tested free.
VLLM_HPC_PORT="$(python -m vllm_hpc.rendezvous "$VLLM_HPC_JOB_ID")" || exit 1
export VLLM_HPC_PORT VLLM_HPC_HEAD=127.0.0.1 VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo


torchrun \
  --nnodes=1 --nproc-per-node=2 --node-rank=0 \
  --master-addr="$VLLM_HPC_HEAD" --master-port="$VLLM_HPC_PORT" --max-restarts=0 \
  -m submitit.core._submit "$VLLM_HPC_FOLDER/ranks" &
work=$!
wait_for_work
