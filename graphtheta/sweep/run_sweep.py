"""The trials of a sweep, one after the other, in one process and on one open graph."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import tomli_w

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError, GraphThetaError, LossNotFinite
from graphtheta.run.build import check_names
from graphtheta.run.open_graph import RunGraph, open_run_graph
from graphtheta.run.run import start_run
from graphtheta.runtime.atomic import atomic_file, disk_errors, lock_folder
from graphtheta.sweep.plan import SweepPlan, read_plan
from graphtheta.sweep.search import Search
from graphtheta.sweep.trial import Trial, read_trials, trial_folder, write_trial
from graphtheta.sweep.watch import Watch, higher_is_better

__all__ = ["run_sweep"]

_log = logging.getLogger("graphtheta")

_PLAN = "plan.toml"  # what the sweep was started with


def run_sweep(
    plan: SweepPlan,
    comm: Communicator,
    *,
    progress: bool = False,
    on_begin: Callable[[Trial], None] = lambda trial: None,
    on_end: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Run the trials of a sweep that have not been run yet; collective.

    Each trial is a run in a folder of its own. A trial that was interrupted continues from its last
    checkpoint. A trial that fails is recorded, and the next one is begun; with several workers only
    a loss that is not finite is such a failure, since other errors may be those of one worker.

    Args:
        plan: The sweep.
        comm: The workers, which train each trial together.
        progress: Whether rank 0 shows the progress of each trial.
        on_begin: Called on rank 0 when a trial begins.
        on_end: Called on rank 0 when a trial has ended.

    Returns:
        Records of all trials, by number; empty on other ranks than 0.

    Raises:
        ConfigError: If Optuna is missing, the sweep in the folder is another one or is in progress,
            or all trials have failed.
    """
    higher_is_better(plan)
    for params in plan.every_end():
        check_names(plan.config(params, plan.folder))
    with ExitStack() as stack:
        stack.enter_context(_warning_once())
        ledger = None
        if comm.rank == 0:
            with disk_errors(plan.folder, "the sweep", ConfigError):
                stack.enter_context(lock_folder(plan.folder, plan.folder, ConfigError))
            ledger = _Ledger(plan)
        comm.barrier(stage="sweep: begin")
        graph = open_run_graph(plan.config(plan.first_params(), plan.folder), comm)
        stage = "sweep: options of a trial"
        while text := comm.broadcast_text("" if ledger is None else ledger.next(), stage=stage):
            trial = Trial.model_validate_json(text)
            if ledger is not None:
                on_begin(trial)
            ended = _run_trial(plan, trial, comm, graph, ledger, progress)
            if ledger is not None:
                on_end(ledger.record(ended))
    if ledger is None:
        return []
    if all(trial.state == "failed" for trial in ledger.trials):
        raise ConfigError(
            f"sweep: expected a trial that succeeds, but all {len(ledger.trials)} failed; the last "
            f"one: {ledger.trials[-1].error}"
        )
    return ledger.trials


@contextmanager
def _warning_once() -> Iterator[None]:
    """Context in which a warning about the graph or the model is not repeated for each trial."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = (text := record.getMessage()) in seen
        seen.add(text)
        return not known

    _log.addFilter(is_new)
    try:
        yield
    finally:
        _log.removeFilter(is_new)


class _Ledger:
    """Trials of a sweep so far, and the search that chooses the next ones; on rank 0."""

    def __init__(self, plan: SweepPlan) -> None:
        self._plan = plan
        known, file = read_trials(plan.folder), plan.folder / _PLAN
        if file.exists() and file.samefile(plan.source):
            raise ConfigError(
                f"{plan.source}: expected another file than the one that the sweep writes, got "
                "it. Copy it to another name."
            )
        if known and file.exists():
            plan.check_continues(read_plan(file, plan.folder))
        self.trials = [trial for trial in known if trial.state != "running"]
        self._interrupted = [trial for trial in known if trial.state == "running"]
        epochs = plan.config(plan.first_params(), plan.folder).epochs
        self.search = Search(plan, epochs, self.trials)
        with disk_errors(file, "the sweep", ConfigError), atomic_file(file) as new:
            new.write_text(tomli_w.dumps(plan.record()))

    def next(self) -> str:
        """Begin the next trial, and return its record as JSON; empty if all have ended."""
        if self._interrupted:
            trial = self._interrupted.pop(0)
            self.search.ask(trial.number, trial.params)
        elif len(self.trials) < self._plan.options.trials:
            taken = {trial.number for trial in self.trials}  # a user may have removed some
            number = next(number for number in count() if number not in taken)
            trial = Trial(number=number, params=self.search.ask(number))
        else:
            return ""
        write_trial(self._plan.folder, trial)
        return trial.model_dump_json()

    def record(self, ended: Trial) -> Trial:
        """Record a trial that has ended."""
        told = self.search.tell(ended)
        self.trials = sorted([*self.trials, told], key=lambda trial: trial.number)
        write_trial(self._plan.folder, told)
        return told


def _run_trial(
    plan: SweepPlan,
    trial: Trial,
    comm: Communicator,
    graph: RunGraph,
    ledger: _Ledger | None,
    progress: bool,
) -> Trial:
    """Train a trial; return its record when it has ended."""
    for workers in {comm, graph.groups.comm, graph.groups.across}:
        workers.bytes_sent = 0  # the summary of the run counts from here
    watch = Watch(trial, plan, None if ledger is None else ledger.search)
    survivable = (LossNotFinite,) if comm.size > 1 else (Exception,)
    try:
        summary = _train(plan, trial, comm, graph, watch, progress)
    except survivable as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        if not isinstance(error, GraphThetaError):
            text = f"{type(error).__name__}: {text}"
            folder = trial_folder(plan.folder, trial.number)
            (folder / "traceback.txt").write_text(traceback.format_exc())
        return watch.trial.model_copy(update={"state": "failed", "error": text})
    if watch.trial.state == "pruned":
        return watch.trial
    value = summary.get(watch.trial.monitor)
    if value is None:
        missing = (
            f"sweep: expected {watch.trial.monitor} among the metrics, got none. Name another one "
            "(monitor), or add a split for validation."
        )
        return watch.trial.model_copy(update={"state": "failed", "error": missing})
    return watch.trial.model_copy(update={"state": "complete", "value": value})


def _train(
    plan: SweepPlan,
    trial: Trial,
    comm: Communicator,
    graph: RunGraph,
    watch: Watch,
    progress: bool,
) -> dict[str, Any]:
    config = plan.config(trial.params, trial_folder(plan.folder, trial.number))
    options: dict[str, Any] = {"progress": progress, "callbacks": [watch], "graph": graph}
    trainer = start_run(config, comm, resume=True, **options)
    with trainer.saver.locked():
        given_up = watch.replay(trainer, config.epochs, config.run_dir / "metrics.jsonl")
        if comm.all_gather_int(given_up, stage="sweep: replayed")[0]:
            return trainer.finish()
    return trainer.fit(config.epochs, signals=True)
