# shellcheck shell=bash
# What every job of vllm-hpc does in the same way: its attempts, signals, end and requeues, and the tasks of PBS.
# A job's script reads this file once, checks that it is the one that the job was submitted with, and runs that text.
# docs/templates.md lists the functions and variables that a site's template may use.
# The script sets job and what begin_attempt wants, and uses task.
# shellcheck disable=SC2034,SC2154

# A profile's setup runs in this shell and may use any plain name: what is set before it and needed after it is _vh_*.
_vh_cause=exit _vh_work='' _vh_group='' _vh_drain_at='' drain_due="${drain_due:-}"
_vh_drain_lead='' _vh_time_limit='' _vh_requeues=''
_vh_job='' _vh_attempt='' _vh_drained='' _vh_hosts='' _vh_node_file='' _vh_looked=''
_vh_pod='' _vh_log=''
_vh_passed=()
nodes=() places=() task=()

# ---- Files of the job folder --------------------------------------------------------------------------------------

# In a folder in which others may write, too, anything may have a file's name: a link would lead to another file of the
# job's owner. So a file is made under a name that nobody can guess, and then takes the place of what is there.

# What COMMAND... prints becomes FILE, which must not be there yet (set -C). It is not for a project's group to edit,
# whatever the umask lets it do with rows.
new_file() {
  local file=$1
  shift
  (set -C && umask go-w && "$@" > "$file") || return 1
  # Where the folder has a default ACL, the umask says nothing. chmod may fail where there is nothing to take.
  if chmod go-w "$file" 2> /dev/null || [ -n "$(find "$file" ! -perm /022)" ]; then return 0; fi
  echo "vllm-hpc: others can write to ${file%/*}, and chmod cannot change that: choose another --job-dir" >&2
  return 2
}

# Prints a name beside FILE, for a draft of it.
draft_of() {
  echo "${1%/*}/.${1##*/}.$HOSTNAME.$BASHPID.$RANDOM$RANDOM"
}

# What COMMAND... prints takes the place of whatever is called FILE, in one step. On a full disk there is no file rather
# than an empty one.
put_file() {
  local file=$1 draft
  shift
  draft="$(draft_of "$file")"
  if new_file "$draft" "$@" && mv -T "$draft" "$file"; then return 0; fi # in a trap, return alone is another code
  rm -f "$draft"
  return 1
}

# The same with an empty FILE, which says something by being there.
put_mark() { put_file "$1" :; }

# ---- An attempt: its number, its signals, the record of its end ---------------------------------------------------

# begin_attempt: takes the next number of the job's attempts, and sees to signals and to the record of the end.
# Set before it, on its line: lead_s, time_limit_s (empty: none), max_requeues.
begin_attempt() {
  _vh_drain_lead=$lead_s _vh_time_limit=$time_limit_s _vh_requeues=$max_requeues
  take_attempt
  trap leave EXIT
  trap drain_work USR2
  if [ -n "$drain_due" ]; then drain_work; fi
  trap 'stop_work TERM' TERM
  trap 'stop_work INT' INT
  # submitit finds its plugin by the first, and the ranks the job by the others.
  export SUBMITIT_EXECUTOR=vllmhpc VLLM_HPC_FOLDER="$job" VLLM_HPC_ATTEMPT="$attempt"
  # Who cancelled it while it was submitted did not know yet which job to cancel.
  if [ -e "$job/control/cancelled" ]; then
    echo "vllm-hpc: it was cancelled while it was submitted" >&2
    _vh_cause=cancelled
    exit 1
  fi
}

# The ledger: this run is attempt k of the job. A hard link is made whole and by one taker only, on NFS too.
take_attempt() {
  local record draft made
  attempt=1
  while true; do
    record="$job/attempts/$attempt.json"
    draft="$(draft_of "$record")"
    new_file "$draft" print_attempt
    made=$?
    if [ "$made" -ne 0 ]; then
      rm -f "$draft"
      if [ "$made" -ne 2 ]; then # it has said why
        echo "vllm-hpc: cannot write into $job/attempts: full, over quota, or not mounted here?" >&2
      fi
      exit 1
    fi
    ln -T "$draft" "$record" 2> /dev/null
    made=$?
    rm -f "$draft"
    if [ "$made" -eq 0 ]; then break; fi
    if [ ! -e "$record" ] && [ ! -L "$record" ]; then
      echo "vllm-hpc: cannot make $record" >&2
      exit 1
    fi
    attempt=$((attempt + 1))
  done
  _vh_job=$job _vh_attempt=$attempt _vh_drained="/tmp/vllm-hpc-drain-${VLLM_HPC_JOB_ID//\//-}-$attempt"
  _vh_hosts="/tmp/vllm-hpc-hosts-${VLLM_HPC_JOB_ID//\//-}-$attempt"
}

print_attempt() {
  printf '{"attempt": %d, "task": %d, "job_id": "%s", "host": "%s", "started_at": %s}\n' \
    "$attempt" "$VLLM_HPC_TASK" "$VLLM_HPC_JOB_ID" "$(uname -n)" "$(date +%s.%N)"
}

# drain_work: has the ranks admit no more rows, finish what they can, and leave. USR2 calls it ahead of the walltime; it
# never reaches torchrun, which would kill the ranks.
drain_work() {
  echo "vllm-hpc: draining: the walltime will be over in $_vh_drain_lead s" >&2
  put_mark "$_vh_job/control/drain-$_vh_attempt"
  # Ranks look into the job folder once in ten seconds, those of this node each second for this folder (a folder, for
  # which nobody can have put a link in its place).
  mkdir "$_vh_drained" 2> /dev/null || :
}

# What the attempt is done with: the mark of drain_work on this node, what nodes have read, and the file of hosts.
remove_files() {
  if [ -d "$_vh_drained" ]; then rmdir "$_vh_drained" 2> /dev/null || :; fi
  if [ -n "$_vh_node_file" ]; then rm -f "$_vh_node_file"; fi
  rm -f "$_vh_hosts"-?????????? 2> /dev/null || :
}

# drain_by_timer: drains ahead of the walltime, where the scheduler sends no signal then.
drain_by_timer() {
  if [ -n "$_vh_time_limit" ]; then _vh_drain_at=$((_vh_time_limit - _vh_drain_lead)); fi
}

# However the script ends, state/exit-<k>.json says so; only SIGKILL or a dead node leaves none.
record_exit() {
  put_file "$_vh_job/state/exit-$_vh_attempt.json" printf '{"attempt": %d, "exit_code": %d, "cause": "%s", "ended_at": %s}\n' \
    "$_vh_attempt" "${1:-$?}" "$_vh_cause" "$(date +%s.%N)"
}

leave() {
  local code=$?
  remove_files
  record_exit "$code"
  job=$_vh_job attempt=$_vh_attempt # for tell_end: a line of the setup that fails may have changed them
  # Not after a signal: PBS may run this task of an array once more by itself, and who deletes it wants no other.
  case "$_vh_cause" in
    exit | timeout)
      forget_passed
      tell_end
      ;;
  esac
}

# tell_end: called at the end of an attempt. The script of an array on PBS has its own: the last task of all submits
# the array again.
tell_end() { :; }

# ---- The environment ----------------------------------------------------------------------------------------------

# pbs_environment: undoes what PBS does to a job: it starts in the home folder, with a path of PBS's own (its clients are
# where they were found when submitting), with all cores of the node for each rank, and without a signal ahead of the
# walltime.
pbs_environment() {
  cd "$PBS_O_WORKDIR" || exit 1
  export PATH="$PATH:${PBS_O_PATH:-}"
  unset OMP_NUM_THREADS
  drain_by_timer
}

# rank_environment BIN: what Python and vLLM need in a job, whose Python must be in that folder, and no other be run.
rank_environment() {
  if [ -n "${1:-}" ] && [ ! -x "$1/python" ]; then
    echo "vllm-hpc: no python in $1 on $(uname -n): nodes must see the environment that submits, or the profile's python" >&2
    exit 1
  fi
  # The profile's setup may have used these names for something else.
  job=$_vh_job attempt=$_vh_attempt
  # A folder called vllm or torch where the job was submitted must not be imported instead.
  export PYTHONUNBUFFERED=1 PYTHONSAFEPATH=1 VLLM_NO_USAGE_STATS=1
  # Needs NVLink multicast, which shared hosts keep switched off. To have it: --env VLLM_ALLREDUCE_USE_SYMM_MEM=1
  export VLLM_ALLREDUCE_USE_SYMM_MEM="${VLLM_ALLREDUCE_USE_SYMM_MEM:-0}"
  # vLLM would take the same ports on every node from it.
  unset VLLM_PORT
  # Some PBS and containers leave it out; a profile's env may name it.
  export USER="${USER:-$(id -un)}"
}

# keep_passed NAME...: remembers the variables of --env NAME, and the profile's secrets, before the profile's setup, which
# may set them, too. Where the job does not inherit them, a file has them. Ends the job if one has not reached it.
keep_passed() {
  local name
  _vh_passed=()
  if [ -e "$_vh_job/state/passed" ]; then read_passed "$_vh_job/state/passed" "$@"; fi
  for name; do
    if [ -z "${!name:-}" ]; then
      echo "vllm-hpc: the job has not got $name: export it where you submit (--env $name), and use 'vllm-hpc resume'" >&2
      exit 1
    fi
    _vh_passed+=("$name=${!name}")
  done
}

# read_passed FILE NAME...: sets those of the NAMEs that FILE has, as NAME=value with a NUL behind each. Nothing in it is
# run. Ends the job if others can read or write it, or have put another in its place.
read_passed() {
  local file=$1 entry
  shift
  if [ -L "$file" ] || [ ! -O "$file" ] || [ -n "$(find "$file" -perm /077)" ]; then
    echo "vllm-hpc: $file must be a file that only you can read: use 'vllm-hpc resume', which writes it anew" >&2
    exit 1
  fi
  while IFS= read -r -d '' entry; do
    case " $* " in *" ${entry%%=*} "*) export "${entry?}" ;; esac
  done < "$file"
}

# forget_passed: removes that file, once no attempt needs it any more. Other tasks of an array may still need it.
forget_passed() {
  case "$VLLM_HPC_JOB_ID" in *_*) return ;; esac
  if [ -O "$_vh_job/state/passed" ]; then rm -f "$_vh_job/state/passed"; fi
}

# restore_passed: sets them as they were.
restore_passed() {
  export "${_vh_passed[@]}"
}

# setup_failed COMMAND: ends the job for a line of the profile's setup. A trap on ERR calls it while these lines run.
setup_failed() {
  echo "vllm-hpc: this line of the profile's setup failed: $1" >&2
  exit 1
}

# ---- The image of a container ----------------------------------------------------------------------------------------

# image_environment IMAGE BUNDLE NAME...: what ranks in the image need; BUNDLE is a folder of vllm-hpc bundle, or empty.
# The NAMEs are those of env and --env: their values win over the image's own.
image_environment() {
  export VLLM_HPC_IMAGE="$1" VLLM_HPC_BUNDLE="$2" VLLM_HPC_NAMES VLLM_HPC_IN_IMAGE
  shift 2
  VLLM_HPC_NAMES="$*"
  VLLM_HPC_IN_IMAGE="$(declare -f in_image)"$'\nin_image "$@"'
}

# enter_image PROGRAM IMAGE PYTHON: before PROGRAM runs IMAGE: both must be there, and nothing of the host's Python goes
# in. PYTHON is the image's, and given only where PROGRAM is srun, which runs its whole task in the image.
enter_image() {
  local name
  if ! command -v "$1" > /dev/null; then
    echo "vllm-hpc: $(uname -n) has no $1, which runs the job's image: load its module in the profile's setup" >&2
    exit 1
  fi
  case "$2" in
    /*)
      if [ ! -e "$2" ]; then
        echo "vllm-hpc: $(uname -n) has no image $2: put it where all nodes see it" >&2
        exit 1
      fi
      ;;
  esac
  # Not before: on PBS what is set then gets into a file, which must not have what was passed by its name.
  for name in ${VLLM_HPC_NAMES-}; do
    if [ -n "${!name+x}" ]; then export "VLLM_HPC_ENV_$name=${!name}"; fi
  done
  unset PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONUSERBASE VIRTUAL_ENV LD_PRELOAD
  # The host's libraries; Apptainer has the image's own, and the others would hand them on.
  case "$1" in podman* | shifter) unset LD_LIBRARY_PATH ;; esac
  export VLLM_HPC_PYTHON="${3:-}"
  # Charliecloud has the folder of TMPDIR for the image's /tmp, and wants USER.
  export VLLM_HPC_TMPDIR="${TMPDIR:-}"
  if [ "$1" = ch-run ]; then unset TMPDIR; fi
  export PYTHONNOUSERSITE=1 USER="${USER:-$(id -un)}"
}

# Runs in the image, by its sh, which need not be bash: PYTHON WORD..., once it is known that all is there for them.
in_image() {
  for name in $VLLM_HPC_NAMES; do
    # What has not come this far must not become empty.
    eval "if [ -n \"\${VLLM_HPC_ENV_$name+x}\" ]; then export $name=\"\$VLLM_HPC_ENV_$name\"; fi"
    unset "VLLM_HPC_ENV_$name"
  done
  unset name
  if [ -n "${VLLM_HPC_TMPDIR:-}" ]; then export TMPDIR="$VLLM_HPC_TMPDIR"; fi
  if [ ! -d "${TMPDIR:-/}" ]; then unset TMPDIR; fi
  if ! command -v "$1" > /dev/null; then
    echo "vllm-hpc: the image $VLLM_HPC_IMAGE has no $1: name its Python in the profile, container.python" >&2
    exit 1
  fi
  if [ -n "$VLLM_HPC_BUNDLE" ]; then
    if [ ! -d "$VLLM_HPC_BUNDLE/first" ]; then
      echo "vllm-hpc: no folder of vllm-hpc bundle in the image: $VLLM_HPC_BUNDLE: put it where all nodes see it" >&2
      exit 1
    fi
    export PYTHONPATH="$VLLM_HPC_BUNDLE/first${PYTHONPATH:+:$PYTHONPATH}"
  fi
  # In a folder in which nobody has put a module.
  (cd / && "$1" -c '
import json, sys
folder, image = sys.argv[1:]
minor = "%d.%d" % sys.version_info[:2]
def fail(words):
    sys.exit("vllm-hpc: the image " + image + " " + words)
if sys.version_info < (3, 11):
    fail("has Python " + minor + ", and vllm-hpc needs 3.11: name another in the profile, container.python")
try:
    import vllm_hpc
    with open(folder + "/job.json", encoding="utf-8") as file:
        wanted = json.load(file)["versions"]["vllm-hpc"]
    if vllm_hpc.__version__ != wanted:
        fail("has vllm-hpc " + vllm_hpc.__version__ + ", but " + wanted + " submitted the job: install the same")
    from vllm_hpc.in_job import main
    sys.exit(main(["check-image", folder, image]))
except ImportError as error:
    fail("lacks " + (error.name or str(error)) + ": make a folder that has it with vllm-hpc bundle --python " + minor
         + " DIR, and name that in the profile, container.bundle")
except OSError as error:
    fail("does not have the job folder: " + str(error))
' "$VLLM_HPC_FOLDER" "$VLLM_HPC_IMAGE") || exit 1
  exec "$@"
}

# ---- The nodes ----------------------------------------------------------------------------------------------------

# slurm_nodes: sets nodes to the names of the allocation's nodes.
slurm_nodes() {
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  if [ -z "${nodes[0]:-}" ]; then
    echo "vllm-hpc: scontrol does not name the nodes of $SLURM_JOB_NODELIST" >&2
    exit 1
  fi
  # For an srun line of a site's own: all that this script has exported, ranks dealt out node by node, all ranks ended
  # when one fails, and the cores that sbatch was told of (which srun does not take from it since Slurm 22.05).
  export SLURM_EXPORT_ENV=ALL SLURM_DISTRIBUTION=block SLURM_KILL_BAD_EXIT=1
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
}

# pbs_nodes NUMBER: sets nodes to the names of that many nodes, and places to the first slot of each.
pbs_nodes() {
  local i slots step=1
  nodes=() places=()
  # The node file names a host once, or once for each of its slots.
  mapfile -t slots < "$PBS_NODEFILE"
  # On NCI's Gadi a node has a slot for each core, also where the file names it once.
  if [ "${#slots[@]}" -eq "$1" ]; then step="${PBS_NCI_NCPUS_PER_NODE:-1}"; fi
  for i in "${!slots[@]}"; do
    case " ${nodes[*]} " in
      *" ${slots[$i]} "*) ;;
      *) nodes+=("${slots[$i]}") places+=("$((i * step))") ;;
    esac
  done
  if [ "${#nodes[@]}" -ne "$1" ]; then
    echo "vllm-hpc: PBS gave these nodes, and not $1 as asked for: ${nodes[*]}" >&2
    exit 1
  fi
}

# add_suffix NAME SUFFIX: prints the name of a node with the profile's head_suffix. The scheduler may give the name in
# full already, and of another network: a suffix that has a domain takes the place of the name's, another goes before it.
add_suffix() {
  local short="${1%%.*}" domain=''
  case "$1" in
    '') return ;;
    *"$2") printf '%s\n' "$1" && return ;;
    *.*) domain=".${1#*.}" ;;
  esac
  case "$2" in
    *.*) printf '%s\n' "$short$2" ;;
    *) printf '%s\n' "${short%"$2"}$2$domain" ;;
  esac
}

# take_head WORDS COMMAND: sets VLLM_HPC_HEAD to the first of the addresses that the site's head_command has printed.
take_head() {
  read -r -d '' VLLM_HPC_HEAD _ < <(printf '%s\n' "$1") # no <<<, which needs room in /tmp before bash 5.1
  if [ -z "$VLLM_HPC_HEAD" ]; then
    echo "vllm-hpc: the profile's head_command failed, or printed no address: $2" >&2
    exit 1
  fi
}

# ---- What a launcher starts on each node --------------------------------------------------------------------------

# make_task NODE: sets task to the words that a launcher starts on each node: a bash that marks the node as joined, and
# then is run_ranks. NODE is the shell's word for the node's number there.
make_task() {
  task=(bash -c "$(declare -f new_file draft_of put_file put_mark join_node say_briefly scratch_folder use_scratch begin_ranks run_briefly ${VLLM_HPC_IMAGE:+enter_image} run_ranks)"$'\n'"node=$1; join_node; run_briefly" bash)
}

# make_task_file NODE NAME...: the same for a launcher that hands on neither the environment nor the folder: task reads
# both from a file, without secrets: those it reads from state/passed. The NAMEs are those of --env. Each node's end is
# on record, for the launcher may not tell it.
make_task_file() {
  local text digest code
  text="$(print_task_file "$@")" || exit 1
  digest="$(printf '%s\n' "$text" | sha256sum)" || exit 1
  _vh_node_file="$(mktemp -u "$_vh_job/state/.run-$_vh_attempt-XXXXXXXXXX")" || exit 1
  (umask 077 && new_file "$_vh_node_file" printf '%s\n' "$text") || exit 1
  # shellcheck disable=SC2059
  printf -v code "${_vh_run_checked//$'\n'/ }" "$1"
  task=(bash -c "$code" bash "$_vh_node_file" "${digest%% *}" "$_vh_job/state" "$_vh_attempt")
}

# What a node does with that file. A project's group can put another one in its place: so it is read once, and run if
# it has the digest that the task's words hold. Else this node has failed, and all others are told. The words have no
# end of line and no backslash, whatever hands them on.
# shellcheck disable=SC2016
_vh_run_checked='_vh_file="$1" _vh_digest="$2" _vh_state="$3" _vh_attempt="$4"; shift 4; node=%s;
{ _vh_text="$(head -c 16M "$_vh_file")"; } 2> /dev/null;
if [ "$(echo "$_vh_text" | sha256sum)" = "$_vh_digest  -" ]; then eval "$_vh_text"; exit; fi;
echo "vllm-hpc: $(uname -n) ran nothing: $_vh_file cannot be read, or is not what the job wrote: use a --job-dir that others cannot write to" >&2;
set -C; { echo 1 > "$_vh_state/node-$_vh_attempt-$node"; : > "$_vh_state/failed-$_vh_attempt"; } 2> /dev/null; exit 1'

print_task_file() {
  local node=$1 names=''
  shift
  if [ "${#_vh_passed[@]}" -gt 0 ]; then names="${_vh_passed[*]%%=*}"; fi
  printf 'cd %q || exit 1\n' "$PWD"
  echo 'unset OMP_NUM_THREADS' # PBS sets it for a task, too
  # Before what refers to them.
  if [ -n "$names" ]; then
    declare -f read_passed
    printf 'read_passed %q %s\n' "$_vh_job/state/passed" "$names"
  fi
  VLLM_HPC_PASSED="$names" python -P -m vllm_hpc.in_job export "$@" || return 1
  declare -f new_file draft_of put_file put_mark join_node nap is_due say_briefly scratch_folder use_scratch begin_ranks run_briefly ${VLLM_HPC_IMAGE:+enter_image} run_ranks stop_work start_work wait_for_work run_node
  echo "_vh_work= _vh_cause=exit _vh_group= _vh_time_limit= _vh_node_file= _vh_looked=; node=$node; run_node; exit"
}

# Of several tasks on a node, the first says it.
join_node() {
  if [ "${SLURM_LOCALID:-0}" -ne 0 ]; then return; fi
  echo "vllm-hpc: ${SLURMD_NODENAME:-$(uname -n)} joined as node $node"
  put_mark "$VLLM_HPC_FOLDER/state/joined-$VLLM_HPC_ATTEMPT-$node"
}

run_node() {
  local code failed='' grace=5 state="$VLLM_HPC_FOLDER/state"
  join_node
  start_work run_briefly
  # Not every launcher passes a signal on: seconds after a rank has failed anywhere, this node ends, too.
  while kill -0 "$_vh_work" 2> /dev/null; do
    nap 2> /dev/null
    if [ -z "$failed" ] && is_due 0 && [ -e "$state/failed-$VLLM_HPC_ATTEMPT" ]; then failed=1; fi
    if [ -n "$failed" ]; then grace=$((grace - 1)); fi
    if [ "$grace" -eq 0 ]; then kill -TERM "$_vh_work" 2> /dev/null; fi
  done
  wait_for_work
  code=$?
  put_file "$state/node-$VLLM_HPC_ATTEMPT-$node" echo "$code"
  return "$code"
}

# All nodes of all jobs share the folder's file system. It is looked at each second in the first minute after BEGAN_AT,
# when a job is most likely to fail, and then every ten.
is_due() {
  local pause=10
  if [ $((SECONDS - $1)) -lt 60 ]; then pause=1; fi
  if [ -n "$_vh_looked" ] && [ $((SECONDS - _vh_looked)) -lt "$pause" ]; then return 1; fi
  _vh_looked=$SECONDS
}

# In a shell that run_ranks then replaces: one that stays would wait for say_briefly, which waits for it.
run_briefly() {
  begin_ranks
  run_ranks
}

# scratch_folder: prints the profile's scratch, as it is on this node. The script has its own where there is one.
scratch_folder() { :; }

# use_scratch FOLDER: temporary files, and what vLLM, torch and Triton compile, go into a private folder of this job's in
# FOLDER. Without it the node ends: the site says that there is no room elsewhere.
use_scratch() {
  VLLM_HPC_SCRATCH=
  case "$1" in /*) VLLM_HPC_SCRATCH="$(mktemp -d "$1/vllm-hpc-XXXXXXXX" 2> /dev/null)" ;; esac
  if [ -z "$VLLM_HPC_SCRATCH" ]; then
    echo "vllm-hpc: the profile's scratch must be a folder of $HOSTNAME in which you can write, not $1" >&2
    exit 1
  fi
  export TMPDIR="$VLLM_HPC_SCRATCH"
}

# begin_ranks: for a shell that then becomes what starts ranks: shortens what that says, and makes a folder for what
# torchrun and the ranks leave behind, which is removed when the last of them has ended, however it did.
begin_ranks() {
  local place
  # Not in TMPDIR, which a container may not have. PET_LOG_DIR is torchrun's --log-dir.
  if ! place="$(scratch_folder 2>&1)"; then
    echo "vllm-hpc: the profile's scratch, on $HOSTNAME: ${place#*line *: }" >&2
    exit 1
  fi
  if [ -n "$place" ]; then
    use_scratch "$place"
  else
    VLLM_HPC_SCRATCH="$(mktemp -d /tmp/vllm-hpc-ranks-XXXXXXXXXX 2> /dev/null)" || VLLM_HPC_SCRATCH=
  fi
  export VLLM_HPC_SCRATCH
  if [ -n "$VLLM_HPC_SCRATCH" ]; then export PET_LOG_DIR="$VLLM_HPC_SCRATCH"; fi
  # In a job of 'vllm-hpc doctor': what this node finds, whether ranks can start or not.
  if [ -n "${VLLM_HPC_DOCTOR:-}" ]; then
    set -- python
    # In an image, as Pyxis starts tasks, there need not be a python, and vllm_hpc may be in the bundle.
    if [ -n "${VLLM_HPC_PYTHON:-}" ]; then set -- sh -c "$VLLM_HPC_IN_IMAGE" sh "$VLLM_HPC_PYTHON"; fi
    "$@" -P -m vllm_hpc.in_job doctor "$VLLM_HPC_FOLDER" "${node:-0}"
  fi
  exec 2> >(
    say_briefly >&2
    if [ -n "$VLLM_HPC_SCRATCH" ]; then rm -rf "$VLLM_HPC_SCRATCH"; fi
  )
  # Held open until this process has ended: a rank that no torchrun started sends its stderr to its own log.
  exec 8>&2
}

# Hands on what torchrun says, but for a signal: there one line stands for a warning for each rank and a traceback of 35
# lines. It reads to the end, whatever signal its session gets.
say_briefly() {
  local line block='' told=''
  trap '' TERM INT
  while IFS= read -r line || [ -n "$line" ]; do
    case "$block$line" in
      'Traceback (most recent call last):'*)
        block+="$line"$'\n'
        case "$line" in
          Traceback* | ' '* | '') continue ;; # it goes on
          *SignalException:*)
            if [ -z "$told" ]; then echo "vllm-hpc: torchrun on $HOSTNAME was told to end (signal ${line##*: })"; fi
            told=1
            ;;
          *) printf '%s' "$block" ;;
        esac
        block=''
        ;;
      *'death signal, shutting down workers' | *'Sending process '*' closing signal '*) ;;
      '' | 'During handling of the above exception, another exception occurred:')
        if [ -z "$told" ]; then printf '%s\n' "$line"; fi
        ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
  printf '%s' "$block"
}

# hosts_file: writes the nodes' names into a file, a line each, and prints the file's name. It is this node's, where no
# project's group can name other hosts to the launcher.
hosts_file() {
  local file
  file="$(mktemp "$_vh_hosts-XXXXXXXXXX")" && put_file "$file" printf '%s\n' "${nodes[@]}" && echo "$file"
}

# ---- The work: what launch starts, until all of it has ended ------------------------------------------------------

# A second, or half of one, called with 2> /dev/null: bash says "Terminated" of a sleep that a signal to its session ends.
nap() {
  sleep 1
}

half_a_nap() {
  sleep 0.5
}

# run_work NAME COMMAND...: runs launch, waits for its end, and ends the script. It names nodes that do not join, and cuts
# short what does not end. Where rows are left, COMMAND has the scheduler run the job again. NAME is the launcher's.
run_work() {
  local launcher=$1 code
  shift
  export VLLM_HPC_WATCHED=
  if [ "${#nodes[@]}" -gt 0 ]; then VLLM_HPC_WATCHED=1; fi
  # In a process group of its own, so that TERM reaches the launcher, whatever else launch runs.
  _vh_group=-
  set -m
  start_work run_launch
  set +m
  if [ -n "$VLLM_HPC_WATCHED" ]; then watch_work; fi
  wait_for_work
  code=$?
  if [ -n "$_vh_node_file" ]; then
    note_left "${!nodes[@]}"
    outcome
    code=$?
  fi
  run_again "$code" "$@"
  exit "$code"
}

run_launch() {
  local code started=() is_numbered=1
  _vh_group=
  # This shell came of one that had been asked to stop.
  if [ -n "${pending:-}" ]; then exit 143; fi
  trap 'stop_launch $?' TERM INT
  trap : USR2
  if [ -n "$_vh_node_file" ]; then
    # An MPI hands its environment on. Each node has its own of these, and those of --env are in the file.
    unset CUDA_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES HIP_VISIBLE_DEVICES GPU_DEVICE_ORDINAL ZE_AFFINITY_MASK TMPDIR
  fi
  launch
  code=$?
  if [ "${#started[@]}" -eq 0 ] && ! has_only_helpers "$code"; then take_all_jobs; fi
  wait_for_launchers || code=$?
  end_helpers
  return "$code"
}

# The launcher hears TERM by itself, unless it has not begun: then it must not begin any more.
stop_launch() {
  trap : TERM INT
  if [ "${#started[@]}" -eq 0 ]; then take_all_jobs; fi
  wait_for_launchers
  exit "$(($1 > 0 ? $1 : 143))"
}

# Where launch has not said which of its processes are launchers: whether a launcher has run in the foreground, so that
# what is left in the background only helps it (a monitor of the GPUs).
has_only_helpers() {
  local in_background='&[[:space:]]*((done|fi);?[[:space:]]*)*\}$'
  case "$(jobs)" in *'task[@]'*) return 1 ;; esac
  if [ "${#nodes[@]}" -gt 0 ]; then
    if [ -z "$(missing_nodes)" ]; then return 0; fi
    if [ "$1" -eq 0 ]; then return 1; fi
  fi
  ! [[ "$(declare -f launch)" =~ $in_background ]]
}

take_all_jobs() {
  local pid
  is_numbered=
  for pid in $(jobs -p); do started+=("$pid"); done
}

# The launchers in the background. bash forgets a job that has ended, but not its code, so they are known by their ids.
wait_for_launchers() {
  local i code=0
  while [ "${#started[@]}" -gt 0 ]; do
    for i in "${!started[@]}"; do
      if kill -0 "${started[$i]}" 2> /dev/null; then continue; fi
      wait "${started[$i]}" || code=$?
      unset "started[$i]"
      if [ -n "$_vh_node_file" ]; then note_end "$i"; fi
    done
    half_a_nap 2> /dev/null
  done
  return "$code"
}

end_helpers() {
  if [ -z "$(jobs -p)" ]; then return; fi
  trap '' TERM
  kill -TERM -- "-$BASHPID" 2> /dev/null
}

# The launcher of that node has ended, or of any node where that is not known.
note_end() {
  local i code
  if [ -n "$is_numbered" ]; then
    note_left "$1"
    return
  fi
  for i in "${!nodes[@]}"; do
    code="$(code_of "$i")"
    if [ "${code:-0}" != 0 ]; then note_left "$i"; fi
  done
}

# The launchers of these nodes have ended. A launcher that failed does not end those of other nodes: the file
# state/failed-<k> tells them.
note_left() {
  local i
  # To make a file shows an NFS client those that others have made.
  put_mark "$_vh_job/state/left-$_vh_attempt-$1"
  for i in "$@"; do
    if [ "$(code_of "$i")" != 0 ]; then put_mark "$_vh_job/state/failed-$_vh_attempt"; fi
  done
}

# start_work COMMAND...: starts it in the background. bash runs a trap only between commands, so this shell then waits for
# it. A signal may come between its start and the next line: then it is kept until that line has run.
start_work() {
  local pending=
  trap 'pending=TERM' TERM
  trap 'pending=INT' INT
  "$@" < /dev/null &
  _vh_work=$!
  trap 'stop_work TERM' TERM
  trap 'stop_work INT' INT
  if [ -n "$pending" ]; then stop_work "$pending"; fi
}

stop_work() {
  _vh_cause=$1
  if [ -n "$_vh_time_limit" ] && [ "$SECONDS" -ge "$_vh_time_limit" ]; then _vh_cause="timeout"; fi
  # Before the work has begun there is nothing to wait for.
  if [ -z "$_vh_work" ]; then exit 143; fi
  if [ -n "$_vh_node_file" ]; then put_mark "$_vh_job/state/failed-$_vh_attempt"; fi
  kill -TERM -- "$_vh_group$_vh_work" 2> /dev/null
}

# wait_for_work: waits for what start_work has started, whatever signals come, and returns its code.
wait_for_work() {
  local code
  while true; do
    wait "$_vh_work"
    code=$?
    # A trapped signal makes wait return early: go on until the work is really gone.
    kill -0 "$_vh_work" 2> /dev/null || break
  done
  # The signal's number is not the work's code, should it have come as the work ended: bash still knows that.
  if [ "$code" -gt 128 ]; then
    wait "$_vh_work"
    code=$?
  fi
  return "$code"
}

# A node that does not join in time is named, instead of waited for until the walltime is over. A rank that fails takes
# all others down within seconds, through torchrun and the launcher. Where that chain is broken (a daemon was killed, a
# node hangs), this shell cuts it short: the scheduler ends what is left when the script has ended.
watch_work() {
  local missing why='' ending_at='' started_at=$SECONDS join_limit="${VLLM_HPC_JOIN_TIMEOUT:-300}"
  while kill -0 "$_vh_work" 2> /dev/null; do
    nap 2> /dev/null
    if [ -n "$_vh_drain_at" ] && [ "$SECONDS" -ge "$_vh_drain_at" ]; then
      _vh_drain_at=
      drain_work
    fi
    if is_due "$started_at"; then look_after_work; fi
    # Asked once: who has joined by then has joined for good.
    if [ -n "$join_limit" ] && [ $((SECONDS - started_at)) -ge "$join_limit" ]; then
      missing="$(missing_nodes)"
      if [ -n "$missing" ]; then
        echo "vllm-hpc: not joined within $join_limit s:$missing" >&2
        stop_work exit
        why="not all nodes have joined"
        ending_at=$SECONDS
      fi
      join_limit=
    fi
    if [ -n "$ending_at" ] && [ $((SECONDS - ending_at)) -ge 30 ]; then
      echo "vllm-hpc: $why, and $launcher did not end within 30 s" >&2
      kill -KILL -- "$_vh_group$_vh_work" 2> /dev/null
    fi
  done
}

# What it finds in the job folder; sets why and ending_at of watch_work.
look_after_work() {
  if [ -n "$_vh_node_file" ]; then watch_tasks; fi
  if [ -z "$ending_at" ] && [ -e "$_vh_job/state/failed-$_vh_attempt" ]; then
    why="a rank has failed"
    ending_at=$SECONDS
    # No launcher holds pods together.
    if [ -n "$_vh_pod" ]; then kill -TERM -- "$_vh_group$_vh_work" 2> /dev/null; fi
  fi
}

# The part of it that is for tasks which hear of each other's end from nobody else.
watch_tasks() {
  # Every node has opened it by now.
  if [ -e "$_vh_node_file" ] && [ -z "$(missing_nodes)" ]; then rm -f "$_vh_node_file"; fi
  if [ -n "$ending_at" ]; then return; fi
  if [ -e "$_vh_job/state/failed-$_vh_attempt" ]; then kill -TERM -- "$_vh_group$_vh_work" 2> /dev/null; fi
  if all_ended; then
    why="every node has ended"
    ending_at=$SECONDS
  fi
}

missing_nodes() {
  local i
  for i in "${!nodes[@]}"; do
    if [ ! -e "$_vh_job/state/joined-$_vh_attempt-$i" ]; then printf ' %s' "${nodes[$i]}"; fi
  done
}

code_of() { cat "$_vh_job/state/node-$_vh_attempt-$1" 2> /dev/null; }

all_ended() {
  local i
  for i in "${!nodes[@]}"; do
    if [ ! -e "$_vh_job/state/node-$_vh_attempt-$i" ]; then return 1; fi
  done
}

# A node that has joined and has not told its end.
one_runs() {
  local i
  for i in "${!nodes[@]}"; do
    if [ ! -e "$_vh_job/state/joined-$_vh_attempt-$i" ]; then continue; fi
    if [ ! -e "$_vh_job/state/node-$_vh_attempt-$i" ]; then return 0; fi
  done
  return 1
}

# The code of the first node that failed. One whose task is over without a word has failed, too.
outcome() {
  local i code silent=0
  # At TERM pbsdsh and pbs_tmrsh leave before their tasks do. Deleted, this script has no time to wait for them.
  for ((i = 0; i < 40; i++)); do
    if [ "$_vh_cause" != "exit" ] || ! one_runs; then break; fi
    half_a_nap 2> /dev/null
  done
  for i in "${!nodes[@]}"; do
    code="$(code_of "$i")"
    if [ "${code:-0}" -ne 0 ]; then return "$code"; fi
    if [ -z "$code" ]; then silent=1; fi
  done
  if [ "$silent" -ne 0 ] && [ "$_vh_cause" != "exit" ]; then silent=143; fi
  return "$silent"
}

# is_told_to_stop: whether the user has cancelled the job, or asked it to stop in good order.
is_told_to_stop() {
  [ -e "$_vh_job/control/cancelled" ] || [ -e "$_vh_job/control/drain" ]
}

# keep_asking COMMAND...: has the scheduler run the job again with that command, and asks it again as long as it cannot
# be reached, the walltime lasts, and the user does not stop the job.
keep_asking() {
  local said pause=5 until="$((_vh_time_limit > 0 ? _vh_time_limit - 5 : SECONDS + 600))"
  until said="$("$@" 2>&1)"; do
    if [ -n "$said" ]; then printf '%s\n' "$said" >&2; fi
    case "$said" in
      *'nable to contact'* | *'imed out'* | *'connect failure'* | *'onnection refused'* | *'try again'*) ;;
      *) return 1 ;;
    esac
    if [ $((SECONDS + pause)) -ge "$until" ]; then return 1; fi
    echo "vllm-hpc: the scheduler was not reached; next try in $pause s" >&2
    sleep "$pause"
    if is_told_to_stop; then
      echo "vllm-hpc: not asked again: the job was told to stop" >&2
      return 1
    fi
    pause=$((pause < 30 ? 2 * pause : 60))
  done
  if [ -n "$said" ]; then printf '%s\n' "$said"; fi
}

# After a drain, or where a rank died while it generated, another attempt goes on with the rows that are left.
run_again() {
  local code=$1
  shift
  if [ "$_vh_requeues" -eq 0 ]; then
    if [ "$code" -eq 0 ]; then return; fi
    echo "vllm-hpc: not running again: --max-requeues is 0; continue with 'vllm-hpc resume'" >&2
    return
  fi
  if [ "$_vh_cause" != "exit" ]; then return; fi
  python -P -m vllm_hpc.in_job requeue "$_vh_job" "$_vh_attempt" "$code" || return
  # Who cancels while that is decided has the last word.
  if [ "$_vh_cause" != "exit" ]; then return; fi
  remove_files
  # On record first: asked to run it again, the scheduler ends this script.
  trap '' TERM INT USR2
  _vh_cause="requeue"
  record_exit "$code"
  "$@" || {
    echo "vllm-hpc: the scheduler does not run it again: 'vllm-hpc resume' does" >&2
    _vh_cause="exit"
    forget_passed
    record_exit "$code"
  }
  trap - EXIT
}

# ---- A pod of Kubernetes ------------------------------------------------------------------------------------------

# begin_pod: each pod of a job runs the same script, and $node is its number. Pod 0 makes the attempts, and says how the
# job ends; the others learn an attempt's number as they meet pod 0. Set before it: what begin_attempt wants.
begin_pod() {
  _vh_job=$job _vh_pod=$node
  write_pod_log
  end_if_over
  # An image knows neither the user nor a home of theirs.
  export USER="${USER:-$(id -un 2> /dev/null || id -u)}"
  if [ ! -w "${HOME:-/nowhere}" ]; then export HOME=/tmp; fi
  if [ "$node" -eq 0 ]; then
    begin_attempt
    trap leave_pod EXIT
    count_starts
    drain_by_timer
    return
  fi
  trap 'stop_work TERM' TERM
  trap 'stop_work INT' INT
  export SUBMITIT_EXECUTOR=vllmhpc VLLM_HPC_FOLDER="$job"
}

# What a pod says is in its own log, and in the job's folder. kubectl has the first only for as long as there is a pod.
write_pod_log() {
  local file="$_vh_job/logs/scheduler.out"
  if [ "$_vh_pod" -ne 0 ]; then file="$_vh_job/logs/pod-$_vh_pod.out"; fi
  exec > >(trap '' TERM INT && exec tee -a "$file") 2>&1
  _vh_log=$!
}

# The end of a pod's first process ends all others: what it said must be written by then.
close_pod_log() {
  local i
  exec > /dev/null 2>&1
  for ((i = 0; i < 50; i++)); do
    kill -0 "$_vh_log" 2> /dev/null || return 0
    sleep 0.1
  done
}

# The file that says with which code the job of this id has ended: a TrainJob's pods may be started again all the same.
over_file() { echo "$_vh_job/state/over-${VLLM_HPC_JOB_ID##*/}"; }

end_if_over() {
  local code
  if [ ! -e "$(over_file)" ]; then return; fi
  code="$(cat "$(over_file)")"
  echo "vllm-hpc: pod $_vh_pod has nothing to do: the job has ended; to continue, run 'vllm-hpc resume'"
  close_pod_log
  if [ "$code" = 0 ]; then exit 0; fi
  exit 1
}

# Each start of pod 0 counts, whoever asked for it, and the job's time began with the first.
count_starts() {
  local starts
  mapfile -t starts < <(
    sed -n "s|.*\"job_id\": \"$VLLM_HPC_JOB_ID\".*\"started_at\": \([0-9]*\).*|\1|p" "$_vh_job"/attempts/*.json | sort -n
  )
  if [ "${#starts[@]}" -gt $((_vh_requeues + 1)) ]; then
    echo "vllm-hpc: pod 0 has been started ${#starts[@]} times (--max-requeues $_vh_requeues); use 'vllm-hpc resume'" >&2
    exit 1
  fi
  if [ -n "$_vh_time_limit" ]; then
    _vh_time_limit=$((_vh_time_limit - $(date +%s) + starts[0]))
  fi
}

leave_pod() {
  local code=$?
  (exit "$code")
  leave
  # Told to end by Kubernetes, as where its node is emptied, it may be started again.
  case "$_vh_cause" in exit | timeout) end_pod "$code" ;; esac
  close_pod_log
  exit "$code"
}

# end_pod CODE: the job has ended for good. Kubeflow's operator starts pods again that end with 128 or more.
end_pod() {
  local code=$1
  if [ "$code" -ge 128 ]; then code=1; fi
  put_file "$(over_file)" echo "$code"
  trap - EXIT
  close_pod_log
  exit "$code"
}

# restart_pod: what run_work of pod 0 calls to have the job run again: its end, with a code at which it is started anew.
restart_pod() {
  trap - EXIT
  if [ -e "$_vh_job/control/drain-$_vh_attempt" ]; then
    echo "vllm-hpc: the job's time is almost over: 'vllm-hpc resume' continues it" >&2
    _vh_cause="exit"
    forget_passed
    record_exit 0
    end_pod 0
  fi
  close_pod_log
  exit 200
}

# pod_rendezvous: how pods meet: at pod 0, as Kubeflow's variables have it. Its own name may not yet be known to itself.
pod_rendezvous() {
  VLLM_HPC_HEAD="${MASTER_ADDR:-${PET_MASTER_ADDR:-}}"
  VLLM_HPC_PORT="${MASTER_PORT:-${PET_MASTER_PORT:-}}"
  VLLM_HPC_SECOND_NODE=
  if [ -z "$VLLM_HPC_HEAD" ] || [ -z "$VLLM_HPC_PORT" ]; then
    echo "vllm-hpc: the pod has no MASTER_ADDR and MASTER_PORT, which Kubeflow's operator sets" >&2
    exit 1
  fi
  case "${VLLM_HPC_POD_IP:-}" in
    '' | *:*) ;;
    *) if [ "$_vh_pod" -eq 0 ]; then VLLM_HPC_HEAD=$VLLM_HPC_POD_IP; fi ;;
  esac
  export VLLM_HPC_HEAD VLLM_HPC_PORT VLLM_HPC_SECOND_NODE
}

# run_pod NAME...: runs launch, and ends the script; the NAMEs are those of all pods. The others leave it to pod 0 whether
# the job runs again, and only ask to be there if it does.
run_pod() {
  local code
  node=$_vh_pod
  if [ "$node" -eq 0 ]; then
    nodes=("$@")
    join_node
    run_work torchrun restart_pod
  fi
  VLLM_HPC_POD_FILE="$(mktemp)" || exit 1
  export VLLM_HPC_WATCHED=1 VLLM_HPC_POD_FILE
  start_work launch
  watch_pod
  wait_for_work
  code=$?
  if [ "$code" -ne 0 ]; then
    if [ -n "$_vh_attempt" ]; then put_mark "$_vh_job/state/failed-$_vh_attempt"; fi
    code=200
  fi
  rm -f "$VLLM_HPC_POD_FILE"
  close_pod_log
  exit "$code"
}

# Nobody else ends a pod's part of an attempt that is over, or of which another part has failed. What ends by itself has a
# moment for it.
watch_pod() {
  local began=$SECONDS ending_at='' told=''
  while kill -0 "$_vh_work" 2> /dev/null; do
    nap 2> /dev/null
    if [ -z "$_vh_attempt" ]; then
      _vh_attempt="$(cat "$VLLM_HPC_POD_FILE")"
      began=$SECONDS
    elif [ -z "$ending_at" ] && is_due "$began" && has_ended; then
      ending_at=$SECONDS
    fi
    if [ -z "$ending_at" ]; then continue; fi
    if [ -z "$told" ] && [ $((SECONDS - ending_at)) -ge 3 ]; then
      told=1
      kill -TERM "$_vh_work" 2> /dev/null
    fi
    if [ $((SECONDS - ending_at)) -ge 45 ]; then kill -KILL "$_vh_work" 2> /dev/null; fi
  done
}

has_ended() { [ -e "$_vh_job/state/failed-$_vh_attempt" ] || [ -e "$_vh_job/state/exit-$_vh_attempt.json" ]; }
