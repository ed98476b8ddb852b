# What the scripts of the one-node cluster have in common; each of them sources it.
# The cluster is a folder: configuration, munge's key and socket, state, logs. Nothing outside it is touched.
# shellcheck shell=bash

folder=${KNOTS_SLURM_LOCAL:-${XDG_STATE_HOME:-${HOME:?}/.local/state}/knots-slurm}
[[ $folder == /* ]] || folder=$PWD/$folder
folder=${folder%/}
daemons=(munged slurmctld slurmd)

# A job or a cluster around this shell must not show through.
unset "${!SLURM_@}"
export SLURM_CONF=$folder/slurm.conf
PATH=$PATH:/usr/sbin:/sbin # where the daemons are; not on every user's path

say() { echo "$*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# Whether Slurm and munge are on this machine.
installed() {
  local program
  for program in "${daemons[@]}" sbatch srun; do
    command -v "$program" >/dev/null || return 1
  done
}

# pid_of DAEMON: prints its process id, if it runs. A pid file may be older than the last boot.
pid_of() {
  local pid
  pid=$(cat "$folder/run/$1.pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$folder/" || return 1
  echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# Process ids of what runs jobs here. It outlives slurmd and has no pid file, but slurmd's working folder.
steps() {
  local process name
  for process in /proc/[0-9]*; do
    read -r name 2>/dev/null <"$process/comm" && [[ $name == slurmstepd ]] || continue
    [[ $process/cwd -ef $folder/log ]] && echo "${process##*/}"
  done || true
}

# requeue JOB: back into the queue, or out of it, as a job of srun cannot be queued again.
requeue() { scontrol requeue "$1" 2>/dev/null || scancel "$1" || true; }

# soon SECONDS COMMAND...: waits until the command succeeds; fails if it does not in that time.
soon() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}
