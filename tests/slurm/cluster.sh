#!/usr/bin/env bash
# A real Slurm on one machine, for the tests: slurmctld and two virtual nodes of eight fake GPUs each.
#
#   cluster.sh up [--accounting]    start it (with slurmdbd and MariaDB); safe to call twice
#   cluster.sh down                 stop it and everything that it started; safe to call twice
#   cluster.sh env                  print the variable that its clients need
#   cluster.sh daemon NAME          start one daemon again: slurmctld, node1, node2
#
# Needs root and Debian's slurm-wlm and munge (and slurmdbd, mariadb-server). Touches nothing in /etc but a line of
# /etc/hosts; all else lies in $VLLM_HPC_SLURM_DIR. With another folder and another $VLLM_HPC_SLURM_PORT (it takes the
# six from there, and ids of jobs that no other port has), a second cluster runs beside the first.
set -euo pipefail

dir=${VLLM_HPC_SLURM_DIR:-/tmp/vllm-hpc-slurm}
port=${VLLM_HPC_SLURM_PORT:-26817}
export SLURM_CONF=$dir/slurm.conf
# Where slurmdbd looks for MariaDB (it has no option for it): never at a server that this host runs already.
export MYSQL_UNIX_PORT=$dir/mysql/mysqld.sock
host=$(uname -n)
hosts_line="127.0.0.1 node1 node2 # vllm-hpc: nodes of $dir"

# For what the clusters of this host share: run a command while no other of them does. A daemon must not inherit 9.
alone() {
  exec 9> /tmp/vllm-hpc-slurm.lock
  flock 9
  "$@"
  exec 9>&-
}

write_config() { # accounting: none | slurmdbd
  mkdir -p "$dir"/{state,spool.node1,spool.node2,log,dev}
  cat > "$dir/slurm.conf" << CONF
ClusterName=vllmhpc
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
FirstJobId=$((port * 100))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
# Signals reach all processes with linuxproc; sites with proctrack/cgroup signal the direct tasks only.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
GresTypes=gpu
# A lost node is noticed within a minute, not within five; a machine under load answers within half of one.
SlurmdTimeout=30
KillWait=10
MessageTimeout=10
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/$1
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 4)) CPUs=8 RealMemory=20000 Gres=gpu:8
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 5)) CPUs=8 RealMemory=20000 Gres=gpu:8
PartitionName=debug Nodes=node[1-2] Default=YES MaxTime=2:00:00 State=UP
CONF
  if [ "$1" = slurmdbd ]; then
    printf '%s\n' AccountingStorageHost=127.0.0.1 "AccountingStoragePort=$((port + 2))" \
      AccountingStorageEnforce=associations,limits,qos >> "$dir/slurm.conf"
  fi
  echo "AutoDetect=off" > "$dir/gres.conf"
  echo "NodeName=node[1-2] Name=gpu File=$dir/dev/nvidia[0-7]" >> "$dir/gres.conf"
  for n in 0 1 2 3 4 5 6 7; do [ -e "$dir/dev/nvidia$n" ] || mknod "$dir/dev/nvidia$n" c 1 3; done
}

add_hosts() { grep -qxF "$hosts_line" /etc/hosts || echo "$hosts_line" >> /etc/hosts; }

# Not sed -i: in a container /etc/hosts is a mount, which cannot be renamed over. And it is never empty meanwhile, for
# other clusters look up their nodes in it.
remove_hosts() {
  local others
  others=$(grep -vxF "$hosts_line" /etc/hosts; echo .)
  printf '%s' "${others%.}" | dd of=/etc/hosts conv=notrunc status=none
  truncate --size="$(printf '%s' "${others%.}" | wc -c)" /etc/hosts
}

alive() { [ -s "$1" ] && ! gone "$(cat "$1")"; }

# Wait until a command succeeds, at most 60 s.
until_ok() {
  local end=$((SECONDS + 60))
  until timeout 10 "$@" > /dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ]; then
      echo "cluster.sh: not within a minute: $*" >&2
      tail -n 5 "$dir"/log/*.log >&2 || true
      return 1
    fi
    sleep 0.2
  done
}

start_munge() {
  if munge -n < /dev/null > /dev/null 2>&1; then return; fi
  [ -s /etc/munge/munge.key ] || { mungekey --create 2> /dev/null || true; chown munge: /etc/munge/munge.key; }
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge
  runuser -u munge -- munged 9>&-
  until_ok munge -n
}

start_daemon() { # slurmctld | node1 | node2
  case $1 in
    slurmctld) alive "$dir/slurmctld.pid" || slurmctld ;;
    node*) alive "$dir/slurmd.$1.pid" || slurmd -N "$1" ;;
  esac
}

start_accounting() {
  local hasty=(--innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=0) # what it holds need not outlive the host
  # Debian's configuration names the host's own socket, log and folder: none of it is read.
  if ! alive "$dir/mysql/mysqld.pid"; then
    install -d -o mysql -g mysql -m 700 "$dir/mysql"
    [ -d "$dir/mysql/mysql" ] || mysql_install_db --no-defaults --user=mysql --datadir="$dir/mysql" --skip-test-db "${hasty[@]}" > /dev/null
    setsid mariadbd --no-defaults --user=mysql --datadir="$dir/mysql" "${hasty[@]}" \
      --skip-networking --socket="$MYSQL_UNIX_PORT" --pid-file="$dir/mysql/mysqld.pid" > "$dir/log/mysql.log" 2>&1 &
    until_ok mysqladmin --no-defaults --socket="$MYSQL_UNIX_PORT" ping
  fi
  cat > "$dir/slurmdbd.conf" << CONF
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((port + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageUser=root
LogFile=$dir/log/slurmdbd.log
PidFile=$dir/slurmdbd.pid
CONF
  chmod 600 "$dir/slurmdbd.conf"
  alive "$dir/slurmdbd.pid" || SLURM_CONF=$dir/slurm.conf slurmdbd
  # slurmdbd first, then the cluster's name, then slurmctld: the other way round they wait for each other's table lock.
  until_ok sacctmgr -n list cluster
  timeout 30 sacctmgr -i add cluster vllmhpc > /dev/null 2>&1 || true
  timeout 30 sacctmgr -i add account open closed > /dev/null 2>&1 || true
  timeout 30 sacctmgr -i add user root account=open > /dev/null 2>&1 || true
}

up() {
  local storage=none
  [ "${1:-}" = --accounting ] && storage=slurmdbd
  if [ -e "$dir/slurm.conf" ] && ! grep -q "AccountingStorageType=accounting_storage/$storage" "$dir/slurm.conf"; then down; fi
  write_config "$storage"
  alone add_hosts
  alone start_munge
  if [ "$storage" = slurmdbd ]; then start_accounting; fi
  start_daemon slurmctld
  until_ok scontrol ping
  start_daemon node1
  start_daemon node2
  # shellcheck disable=SC2016 # for the inner shell
  until_ok bash -c '[ "$(sinfo --noheader --Node --format=%t | sort -u)" = idle ] || [ "$(sinfo -h -o %D -t idle,mix,alloc)" = 2 ]'
}

# A daemon that has no parent to reap it stays a zombie: that counts as gone.
gone() { [ ! -e "/proc/$1" ] || grep -q '^State:.Z' "/proc/$1/status" 2> /dev/null; }

stop() { # PIDFILE
  local pid end=$((SECONDS + 20))
  if ! alive "$1"; then return; fi
  pid=$(cat "$1")
  kill "$pid" 2> /dev/null || true
  until gone "$pid"; do
    if [ "$SECONDS" -ge "$end" ]; then kill -KILL "$pid" 2> /dev/null || true; fi
    sleep 0.1
  done
}

# The pids of this cluster's Slurm daemons, and of no other's on this host: all have its SLURM_CONF from their start.
own_daemons() {
  local pid
  for pid in $(pgrep -x 'slurmctld|slurmd|slurmstepd|slurmdbd'); do
    if tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; then echo "$pid"; fi
  done
}

down() {
  local pid
  if alive "$dir/slurmctld.pid"; then timeout 20 scancel --user=root > /dev/null 2>&1 || true; fi
  for pid in "$dir"/slurmd.node*.pid "$dir/slurmctld.pid" "$dir/slurmdbd.pid" "$dir/mysql/mysqld.pid"; do stop "$pid"; done
  # What a killed slurmd left behind, and a daemon whose pid file is lost.
  for pid in $(own_daemons); do kill -KILL "$pid" 2> /dev/null || true; done
  if grep -qxF "$hosts_line" /etc/hosts; then alone remove_hosts; fi
  rm -rf "$dir"
}

case "${1:-}" in
  up) up "${2:-}" ;;
  down) down ;;
  env) echo "SLURM_CONF=$SLURM_CONF" ;;
  daemon) start_daemon "$2" ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
