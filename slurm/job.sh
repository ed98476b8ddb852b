# What the batch scripts have in common; they source it once they have found the repository.
# shellcheck shell=bash disable=SC2034

die() {
  echo "error: $*" >&2
  exit 2
}

# log_to FOLDER: output goes there, unless sbatch was given --output. Slurm makes no folder for a log, and ends a job
# without a word when it cannot open its log.
log_to() {
  local number=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
  [[ /proc/$$/fd/1 -ef /dev/null ]] || return 0
  mkdir -p "$1"
  exec >>"$1/$SLURM_JOB_NAME-$number.log" 2>&1
}

# use_environment REPOSITORY: sets `in_environment`, what comes before a command of the repository's environment.
use_environment() {
  in_environment=()
  if command -v uv >/dev/null; then
    in_environment=(uv run --no-sync --project "$1")
  elif [[ -d $1/.venv/bin ]]; then
    PATH=$1/.venv/bin:$PATH
  else
    die "neither uv nor $1/.venv is here; 'uv sync' in the repository makes its environment"
  fi
}
