"""The search for good options, by Optuna, on rank 0.

The study is in memory, and is made again from the records of the trials when a sweep continues:
nothing else is kept that a kill could damage. The sampler has a seed of its own for each trial, so
that a sweep which was interrupted tries the same options as one that was not.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphtheta.errors import ConfigError
from graphtheta.sweep.plan import Dimension, Range, SweepPlan
from graphtheta.sweep.trial import Trial

__all__ = ["Search"]


class Search:
    """Search over the space of a sweep.

    Costs are minimised: the negative of what is maximised.

    Args:
        plan: The sweep.
        epochs: Number of epochs of a trial.
        trials: Trials that have ended before.

    Raises:
        ConfigError: If Optuna is not installed.
    """

    def __init__(self, plan: SweepPlan, epochs: int, trials: Iterable[Trial]) -> None:
        self._optuna = _import_optuna()
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._seed = plan.options.seed
        self._space = {n: self._distribution(n, d) for n, d in plan.space.items()}
        self._study = self._optuna.create_study(
            study_name="sweep", direction="minimize", pruner=self._pruner(plan, epochs)
        )
        for trial in trials:
            self._study.add_trial(self._frozen(trial))
        self._trial: Any = None

    def ask(self, number: int, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begin a trial, and return the values of its options.

        Args:
            number: Number of the trial.
            params: Values of a trial that was interrupted. If None, they are chosen.
        """
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        if params is not None:
            self._study.enqueue_trial(params)
        self._trial = self._study.ask(self._space)
        return dict(self._trial.params)

    def report(self, epoch: int, cost: float) -> bool:
        """Report the cost of an epoch; return whether the trial should be stopped."""
        self._trial.report(cost, epoch)
        return bool(self._trial.should_prune())

    def tell(self, trial: Trial) -> Trial:
        """End the trial that was begun last; return its record with what the pruner keeps."""
        state = self._states()[trial.state]
        cost = _cost(trial, trial.value) if trial.state == "complete" else None
        frozen = self._study.tell(self._trial, cost, state)
        return trial.model_copy(update={"attributes": dict(frozen.system_attrs)})

    def _states(self) -> dict[str, Any]:
        states = self._optuna.trial.TrialState
        return {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}

    def _frozen(self, trial: Trial) -> Any:
        reports = {epoch: _cost(trial, value) for epoch, value in trial.reports.items()}
        return self._optuna.trial.create_trial(
            state=self._states()[trial.state],
            value=None if trial.state == "failed" else _cost(trial, trial.value),
            params=trial.params,
            distributions=self._space,
            system_attrs=trial.attributes,
            intermediate_values=reports,
        )

    def _pruner(self, plan: SweepPlan, epochs: int) -> Any:
        pruners, chosen = self._optuna.pruners, plan.options.min_epochs
        first = min(max(5, epochs // 10) if chosen is None else chosen, epochs)
        if plan.options.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=first, max_resource=epochs)
        if plan.options.pruner == "median":
            return pruners.MedianPruner(n_warmup_steps=first - 1)
        return pruners.NopPruner()

    def _distribution(self, name: str, dimension: Dimension) -> Any:
        distributions = self._optuna.distributions
        if not isinstance(dimension, Range):
            return distributions.CategoricalDistribution(dimension)
        of_numbers = distributions.FloatDistribution
        step = dimension.step
        if isinstance(dimension.low, int):
            of_numbers, step = distributions.IntDistribution, step or 1
        return of_numbers(dimension.low, dimension.high, log=dimension.log, step=step)


def _cost(trial: Trial, value: float | None) -> float | None:
    return None if value is None else -value if trial.higher_is_better else value


def _import_optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError(
            f"sweep: expected the library optuna, got: {error}. Install it: pip install "
            "'graphtheta[sweep]'."
        ) from None
