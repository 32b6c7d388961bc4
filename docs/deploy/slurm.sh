#!/bin/bash
# Train on a Slurm cluster: sbatch docs/deploy/slurm.sh STORE RUN_DIR [options of `graphtheta train`]
#
# One rank a task; a rank uses the cores of its task. The number of tasks must divide the parts of
# the store. README.md beside this file says what to adapt.
#
#SBATCH --job-name=graphtheta
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Two minutes before the time limit this shell hears USR1; see `before_the_end`.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: sbatch $0 STORE RUN_DIR [options of graphtheta train]" >&2
    exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "error: $0: expected to run under Slurm. Start it with sbatch." >&2
    exit 2
fi
store=$1
run_dir=$2
shift 2

# The mpich wheel, and MPICH itself, speak pmi2; Open MPI speaks pmix. `srun --mpi=list` shows what
# the cluster has. With the wrong one every task is a job of its own, which graphtheta refuses.
mpi=${GRAPHTHETA_MPI:-pmi2}
if [ -n "${GRAPHTHETA_VENV:-}" ]; then
    # shellcheck disable=SC1091
    source "$GRAPHTHETA_VENV/bin/activate"
fi

# A step gets the cores of its tasks only if it asks for them again.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# --kill-on-bad-exit ends the step also if a rank fails before it has started MPI.
ranks=(srun "--mpi=$mpi" --kill-on-bad-exit=1 --cpu-bind=cores)

# Before hours are spent: do the ranks find each other, and how many threads has each?
"${ranks[@]}" graphtheta doctor

resume=()
if [ -e "$run_dir/config.toml" ] && [ ! -e "$run_dir/summary.json" ]; then
    resume=(--resume) # an earlier run of this job was cut off
fi

# In the background, because a shell handles signals only between commands. No function around it:
# the signal has to reach srun itself.
"${ranks[@]}" graphtheta train "$store" --run-dir "$run_dir" "${resume[@]}" "$@" &
step=$!

before_the_end() {
    echo "$0: the time limit is near: checkpoint, and back into the queue"
    kill -USR1 "$step" 2>/dev/null || true # srun hands it on to all ranks, which write a checkpoint
    for _ in {1..90}; do
        kill -0 "$step" 2>/dev/null || break
        sleep 1
    done
    if [ ! -e "$run_dir/summary.json" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 0
}
trap before_the_end USR1

wait "$step"
