#!/usr/bin/env bash
# Rendered by vllm-hpc VERSION for run.
# Runs 2 rank(s) on this machine: TP 2 x PP 1 x DP 1.
# The local scheduler (python -m vllm_hpc.schedulers.local.supervisor) starts this script, watches it and sweeps up behind it.
# Quoted values hold no expansions, and some functions are called by traps only; both on purpose.
# shellcheck disable=SC2016,SC2317
set -uo pipefail
export VLLM_HPC_TASK=0

job=/scratch/runs/run

# Called 120 s before the walltime is over, or by USR2, which never reaches torchrun: that would kill the ranks.
# They look for this file, admit no more rows, finish what they can, and leave.
drain_work() {
  echo "vllm-hpc: draining: the walltime will be over in 120 s" >&2
  : > "$job/control/drain-$attempt"
}
# One that comes before this attempt has its number is kept until then.
drain_due=
trap 'drain_due=1' USR2

# The ledger: this run is attempt k of the job. A hard link is made whole and by one taker only, on NFS too.
take_attempt() {
  local draft="$job/attempts/.draft-$VLLM_HPC_JOB_ID-$$"
  attempt=1
  while true; do
    if ! printf '{"attempt": %d, "task": %d, "job_id": "%s", "host": "%s", "started_at": %s}\n' \
      "$attempt" "$VLLM_HPC_TASK" "$VLLM_HPC_JOB_ID" "$(uname -n)" "$(date +%s.%N)" > "$draft"; then
      echo "vllm-hpc: cannot write into $job/attempts: full, over quota, or not mounted here?" >&2
      exit 1
    fi
    if ln "$draft" "$job/attempts/$attempt.json" 2> /dev/null; then break; fi
    if [ ! -e "$job/attempts/$attempt.json" ]; then
      echo "vllm-hpc: cannot make $job/attempts/$attempt.json" >&2
      exit 1
    fi
    attempt=$((attempt + 1))
  done
  rm -f "$draft"
}

# However this script ends, state/exit-<k>.json says so; only SIGKILL or a dead node leaves none.
cause="exit"
record_exit() {
  local code=${1:-$?} draft="$job/state/.exit-$attempt.json"
  # On a full disk there is no record rather than an empty one.
  if printf '{"attempt": %d, "exit_code": %d, "cause": "%s", "ended_at": %s}\n' \
    "$attempt" "$code" "$cause" "$(date +%s.%N)" > "$draft"; then
    mv "$draft" "$job/state/exit-$attempt.json"
  else
    rm -f "$draft"
  fi
}

# bash runs a trap only between commands, so the work goes into the background and this shell waits for it.
work=
stop_work() {
  cause=$1
  # Before the work has begun, or after its end, there is nothing to wait for.
  if [ -z "$work" ]; then exit 143; fi
  kill -TERM "$work" 2> /dev/null
}
# The signal may come between the start of the work and the next line: then it is kept until that line has run.
start_work() {
  local pending=
  trap 'pending=TERM' TERM
  trap 'pending=INT' INT
  "$@" &
  work=$!
  trap 'stop_work TERM' TERM
  trap 'stop_work INT' INT
  if [ -n "$pending" ]; then stop_work "$pending"; fi
}
wait_for_work() {
  local code
  while true; do
    wait "$work"
    code=$?
    # A trapped signal makes wait return early: go on until the work is really gone.
    kill -0 "$work" 2> /dev/null || break
  done
  # The signal's number is not the work's code, should it have come as the work ended: bash still knows that.
  if [ "$code" -gt 128 ]; then
    wait "$work"
    code=$?
  fi
  return "$code"
}

take_attempt
trap record_exit EXIT
trap drain_work USR2
if [ -n "$drain_due" ]; then drain_work; fi
trap 'stop_work TERM' TERM
trap 'stop_work INT' INT

# The same Python as the one that submitted. submitit finds its plugin in it, torchrun its workers.
export PATH=/opt/venv/bin:"$PATH"
export SUBMITIT_EXECUTOR=vllmhpc VLLM_HPC_FOLDER="$job" VLLM_HPC_ATTEMPT="$attempt"
# A folder called vllm or torch where the job was submitted must not be imported instead.
export PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 VLLM_NO_USAGE_STATS=1
# Needs NVLink multicast, which shared hosts keep switched off. To have it: --env VLLM_ALLREDUCE_USE_SYMM_MEM=1
export VLLM_ALLREDUCE_USE_SYMM_MEM="${VLLM_ALLREDUCE_USE_SYMM_MEM:-0}"
# vLLM would take the same ports on every node from VLLM_PORT.
unset VLLM_PORT
# Ranks that share cores would spin against each other: each gets its part of them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( $(nproc) > 2 ? $(nproc) / 2 : 1 ))}"


# One machine: everything over the loopback device, on a port tested free.
VLLM_HPC_PORT="$(python -m vllm_hpc.in_job rendezvous "$VLLM_HPC_JOB_ID")" || exit 1
export VLLM_HPC_PORT VLLM_HPC_HEAD=127.0.0.1 VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo


start_work torchrun \
  --nnodes=1 --nproc-per-node=2 --node-rank=0 \
  --master-addr="$VLLM_HPC_HEAD" --master-port="$VLLM_HPC_PORT" --max-restarts=0 \
  -m vllm_hpc.in_job rank "$VLLM_HPC_FOLDER"
wait_for_work
code=$?
# After a drain, or where a rank died while it generated, another attempt goes on with the rows that are left.
# Who cancels while that is decided has the last word.
if [ "$cause" = "exit" ] && python -m vllm_hpc.in_job requeue "$VLLM_HPC_FOLDER" "$attempt" "$code" && [ "$cause" = "exit" ]; then
  # On record first: asked to run it again, the scheduler ends this script.
  trap '' TERM INT USR2
  cause="requeue"
  record_exit "$code"
  true || {
    echo "vllm-hpc: the scheduler does not run it again: 'vllm-hpc resume' does" >&2
    cause="exit"
    record_exit "$code"
  }
  trap - EXIT
fi
exit "$code"
