#!/bin/bash
# Train on a Slurm cluster: sbatch docs/deploy/slurm.sh STORE RUN_DIR [options of `graphtheta train`]
#
# Each task is one rank, which uses the cores of the task. The number of tasks must divide the number
# of parts of the store. README.md in this folder explains what to adapt.
#
#SBATCH --job-name=graphtheta
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Send USR1 to this shell two minutes before the time limit; `checkpoint_and_requeue` handles it.
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

# MPICH and the mpich wheel use pmi2, Open MPI uses pmix. `srun --mpi=list` shows what the cluster
# supports. With the wrong one every task would be a job of its own, which graphtheta refuses.
mpi=${GRAPHTHETA_MPI:-pmi2}
if [ -n "${GRAPHTHETA_VENV:-}" ]; then
    # shellcheck disable=SC1091
    source "$GRAPHTHETA_VENV/bin/activate"
fi

# srun does not inherit the cores per task from the job.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# With --kill-on-bad-exit the step ends even if a rank fails before it has started MPI.
ranks=(srun "--mpi=$mpi" --kill-on-bad-exit=1 --cpu-bind=cores)

# A failure of a started run returns the job to the queue, at most GRAPHTHETA_REQUEUES times. The run
# then continues from its last checkpoint, which --checkpoint-seconds saves every ten minutes. (Slurm
# itself requeues the job of a dead node.)
requeues=${GRAPHTHETA_REQUEUES:-3}
failures=$run_dir/failures-$SLURM_JOB_ID.txt
requeue_after_failure() {
    [ -e "$run_dir/config.toml" ] || return 0 # the run was refused before it started
    date "+%FT%T exit code $1" >>"$failures"
    local count
    count=$(wc -l <"$failures")
    if [ "$count" -gt "$requeues" ]; then
        echo "$0: exit code $1; giving up after $requeues requeues" >&2
        return 0
    fi
    echo "$0: exit code $1; requeueing the job ($count of $requeues)"
    scontrol requeue "$SLURM_JOB_ID"
}

# Check that the ranks find each other, and print the threads of each, before training starts.
code=0
"${ranks[@]}" graphtheta doctor || code=$?
if [ "$code" -ne 0 ]; then
    requeue_after_failure "$code"
    exit "$code"
fi

# In the background, because a shell handles signals only between commands, and not in a function,
# because the signal must reach srun itself.
"${ranks[@]}" graphtheta train "$store" --run-dir "$run_dir" --resume auto "$@" &
step=$!

checkpoint_and_requeue() {
    echo "$0: the time limit is near: writing a checkpoint and requeueing the job"
    kill -USR1 "$step" 2>/dev/null || true # srun forwards it to all ranks, which write a checkpoint
    for _ in {1..90}; do
        kill -0 "$step" 2>/dev/null || break
        sleep 1
    done
    if [ ! -e "$run_dir/summary.json" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit 0
}
trap checkpoint_and_requeue USR1

code=0
wait "$step" || code=$?
if [ "$code" -ne 0 ]; then
    requeue_after_failure "$code"
fi
exit "$code"
