"""`graphtheta sweep`: search for good options by many runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from graphtheta.cli.terminal.help import Threads, argument, option
from graphtheta.cli.terminal.show import show_rows
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.sweep.plan import SweepPlan
    from graphtheta.sweep.trial import Trial

__all__ = ["sweep"]

_MOST_ROWS = 20


def sweep(
    file: Annotated[Path, argument("SWEEP.toml")],
    run_dir: Annotated[Path | None, option("PATH", default="run_dir of the file")] = None,
    threads: Threads = None,
) -> None:
    """Search for good options by many runs on one graph, with Optuna.

    The file has the options of train, as --config has, and the tables [space] and [sweep]:

    \b
      input = "store"
      epochs = 100
      run_dir = "runs/sweep"
      [space]
      lr = {low = 1e-4, high = 1e-1, log = true}
      hidden = [32, 64, 128]
      [sweep]
      trials = 40

    Each trial is a run in a folder of its own. Trials that are worse than others after as many
    epochs are stopped. The same command continues a sweep that was interrupted, or whose number of
    trials was raised. Under mpiexec all workers train each trial together. Needs Optuna: pip
    install 'graphtheta[sweep]'.

    Args:
        file: TOML file of the sweep.
        run_dir: Directory of the sweep, with a directory for each trial.
        threads: Threads per worker.

    Example:
      graphtheta sweep sweep.toml
    """  # noqa: D301
    from graphtheta.sweep.plan import read_plan

    plan = read_plan(file, run_dir)

    from graphtheta.cli.worker import start_worker

    given = plan.config(plan.first_params(), plan.folder)
    comm, _ = start_worker(threads or given.threads, timeout=given.timeout, allocator="training")

    from graphtheta.sweep.run_sweep import run_sweep
    from graphtheta.train.signals import Stopped

    try:
        trials = run_sweep(
            plan, comm, progress=sys.stderr.isatty(), on_begin=_show_begin, on_end=_show_end
        )
    except (Stopped, KeyboardInterrupt):
        if comm.rank == 0:
            print(_progress(plan), file=sys.stderr, flush=True)
        raise
    if comm.rank == 0:
        _show_result(plan, trials)


def _show_begin(trial: Trial) -> None:
    from graphtheta.report.comparison import option_text

    params = ", ".join(f"{name} {option_text(value)}" for name, value in trial.params.items())
    print(f"trial {trial.number}: {params}", flush=True)


def _show_end(trial: Trial) -> None:
    if trial.state == "failed":
        print(f"trial {trial.number} failed: {trial.error}", flush=True)
        return
    epochs = max(trial.reports, default=-1) + 1
    why = f"pruned after {counted(epochs, 'epoch')}" if trial.state == "pruned" else "complete"
    print(f"trial {trial.number} {why}: {trial.monitor} {trial.value:.4f}", flush=True)


def _progress(plan: SweepPlan) -> str:
    from graphtheta.sweep.trial import read_trials

    ended = sum(trial.state != "running" for trial in read_trials(plan.folder))
    return (
        f"{ended} of {counted(plan.options.trials, 'trial')} are done; to continue the sweep, run "
        "the same command again"
    )


def _show_result(plan: SweepPlan, trials: list[Trial]) -> None:
    from graphtheta.report.comparison import comparison_table
    from graphtheta.report.recorded_run import read_runs
    from graphtheta.sweep.trial import best_trial, trial_folder

    folders = {trial_folder(plan.folder, trial.number): trial for trial in trials}
    runs = read_runs([folder for folder in folders if (folder / "config.toml").exists()])
    states = {folder.name: trial.state for folder, trial in folders.items()}
    head, rows = comparison_table(runs, states)
    show_rows(rows[:_MOST_ROWS], head=head)
    if len(rows) > _MOST_ROWS:
        print(f"and {len(rows) - _MOST_ROWS} more: graphtheta compare {plan.folder}")
    failed = [str(trial.number) for trial in trials if trial.state == "failed"]
    if failed:
        print(f"failed: {counted(len(failed), 'trial')} ({', '.join(failed[:10])})")
    best = best_trial(trials)
    folder = trial_folder(plan.folder, best.number)
    print(f"best trial: {folder}, {best.monitor} {best.value:.4f}")
    print(f"to train it again: graphtheta train --config {folder}/config.toml --run-dir FOLDER")
    print(f"to look at it:     graphtheta report {folder}")
