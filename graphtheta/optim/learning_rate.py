"""Learning rate of an optimiser during a run, by a schedule of ours or of torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.optim.schedules import SCHEDULES, By, RateList, Schedule, read_rates

__all__ = ["LearningRate", "ScheduleLike", "TorchSchedule"]

_log = logging.getLogger("graphtheta")
_Scheduler = LRScheduler | Callable[[torch.optim.Optimizer], LRScheduler]


@dataclass(frozen=True)
class TorchSchedule:
    """Scheduler of torch, and when it is advanced.

    Args:
        scheduler: A `torch.optim.lr_scheduler` object, or a function from the optimiser to one.
        by: Whether to advance it after every step or after every epoch.
    """

    scheduler: _Scheduler
    by: By = "epoch"


ScheduleLike = (
    str | Path | Mapping[str, Any] | Sequence[float] | Schedule | TorchSchedule | _Scheduler
)


class LearningRate:
    """Learning rate of an optimiser, set before each of its steps.

    Args:
        given: Name of a schedule, path of a file for `read_rates` (ending in .json), list of
            learning rates, or an object; a scheduler of torch, or a function that returns one, is
            advanced after every epoch.
        optimizer: The optimiser, as constructed.
        report: Whether to log warnings, as rank 0 does.

    Raises:
        ConfigError: If `given` is something else, or a scheduler of another optimiser.
    """

    def __init__(
        self, given: ScheduleLike | None, optimizer: torch.optim.Optimizer, *, report: bool = True
    ) -> None:
        self._optimizer, self._level = optimizer, logging.WARNING if report else logging.DEBUG
        self._bases = [_rate_of(group) for group in optimizer.param_groups]
        self._own: Schedule | None = None
        self._torch: LRScheduler | None = None
        self._by: By = "step"
        self._epoch = self._update = 0
        self._updates_per_epoch = 1
        self._epochs = 0  # of the run that is planned, or that a checkpoint was saved by
        self._set(given)

    def _set(self, given: Any) -> None:
        if isinstance(given, str) and not given.endswith(".json"):
            need_name(given, SCHEDULES, "schedule (--schedule)")
            given = SCHEDULES[given]()
        elif isinstance(given, str | Path):
            given = read_rates(Path(given))
        elif isinstance(given, Mapping):
            given = RateList(tuple(given.get("lr", ())), given.get("by", "step"))
        elif isinstance(given, Sequence):
            given = RateList(tuple(given))
        elif isinstance(given, type) and hasattr(given, "rate"):
            given = given()
        is_scheduler = isinstance(given, LRScheduler)
        if not is_scheduler and callable(given):
            given = TorchSchedule(given)
        if isinstance(given, TorchSchedule) or is_scheduler:
            self._set_torch(given if isinstance(given, TorchSchedule) else TorchSchedule(given))
        elif given is None or (hasattr(given, "rate") and hasattr(given, "by")):
            self._own, self._by = given, "step" if given is None else given.by
        else:
            raise _expected(type(given).__name__)
        if given is not None and any(map(math.isnan, self._bases)):
            raise ConfigError(
                "schedule: expected an optimiser with a learning rate 'lr' in each group, got "
                f"{type(self._optimizer).__name__} without. Leave the schedule out."
            )

    def _set_torch(self, given: TorchSchedule) -> None:
        made = given.scheduler
        if not isinstance(made, LRScheduler):
            made = made(self._optimizer)
            if not isinstance(made, LRScheduler):
                raise _expected(f"a function that returns {type(made).__name__}")
        if getattr(made, "optimizer", self._optimizer) is not self._optimizer:
            raise ConfigError(
                "schedule: expected a scheduler of the trainer's optimiser, got one of another. "
                "Give a function: schedule=lambda optimizer: "
                f"torch.optim.lr_scheduler.{type(made).__name__}(optimizer, ...)."
            )
        if given.by == "step" and isinstance(made, ReduceLROnPlateau):
            raise ConfigError(
                "schedule: expected by='epoch' with ReduceLROnPlateau, which reads the metrics of "
                "an epoch, got 'step'. Leave it out."
            )
        self._torch, self._by = made, given.by

    def plan(self, epochs: int, updates_per_epoch: Callable[[], int]) -> None:
        """Set the length of the run; collective if the schedule is by step.

        Args:
            epochs: Number of epochs, including those already done.
            updates_per_epoch: Called for the number of optimiser updates of an epoch if it is
                needed.

        Raises:
            ConfigError: If the schedule does not fit this length.
        """
        if self._own is None:
            return
        if self._by == "step":
            self._updates_per_epoch = updates_per_epoch()
        if self._epochs not in (0, epochs) and not isinstance(self._own, RateList):
            _log.log(
                self._level,
                "schedule: the learning rate was planned for %d epochs, and goes on by the curve "
                "for %d.",
                *(self._epochs, epochs),
            )
        self._epochs = epochs
        self._own.check(self._total)

    @property
    def _total(self) -> int:
        return self._epochs * (self._updates_per_epoch if self._by == "step" else 1)

    def begin_epoch(self, epoch: int, updates: int = 0) -> None:
        """Start an epoch, of number `epoch` from 0, after some of its updates."""
        self._epoch, self._update = epoch, updates

    def begin_update(self) -> None:
        """Set the learning rate of the next step of the optimiser."""
        if self._own is None:
            return
        position = self._epoch
        if self._by == "step":
            position = position * self._updates_per_epoch + self._update
        first = self._own.rate(position, self._total, self._bases[0])
        for group, base in zip(self._optimizer.param_groups, self._bases, strict=True):
            rate = first if base == self._bases[0] else first * base / (self._bases[0] or 1.0)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def end_update(self) -> None:
        """Note that the optimiser has made a step."""
        self._update += 1
        if self._torch is not None and self._by == "step":
            self._torch.step()

    @property
    def reads_metrics(self) -> bool:
        """Whether the scheduler needs the metrics of an epoch at its end."""
        return isinstance(self._torch, ReduceLROnPlateau)

    def end_epoch(self, metrics: Mapping[str, float], main: str) -> None:
        """Advance a scheduler of torch by an epoch.

        Args:
            metrics: Metrics of the epoch.
            main: Name of the validation metric. `ReduceLROnPlateau` gets it if its mode is "max",
                otherwise the validation loss, or without one the training loss.
        """
        if self._torch is None or self._by == "step":
            return
        if not isinstance(self._torch, ReduceLROnPlateau):
            self._torch.step()
            return
        names = [main] if self._torch.mode == "max" else ["val_loss", "loss"]
        found = [metrics[name] for name in names if name in metrics]
        if found:
            self._torch.step(found[0])

    def rates(self) -> dict[str, float]:
        """Return the present learning rate as `lr`, and that of other groups as `lr_group_1`.

        It is empty for an optimiser without learning rates.
        """
        rates = [_rate_of(group) for group in self._optimizer.param_groups]
        if any(map(math.isnan, rates)):
            return {}
        others = {f"lr_group_{n}": r for n, r in enumerate(rates) if r != rates[0]}
        return {"lr": rates[0], **others}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON can hold it."""
        if self._torch is None:
            return (
                {} if self._own is None else {"schedule": repr(self._own), "epochs": self._epochs}
            )
        groups = [
            {name: value for name, value in group.items() if name != "params" and _is_plain(value)}
            for group in self._optimizer.param_groups
        ]
        return {
            "schedule": type(self._torch).__name__,
            "scheduler": _plain(self._torch.state_dict()),
            "groups": groups,
            "num_groups": len(groups),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint, if it is of the same schedule.

        A warning says if it is of another.
        """
        mine = self.state()
        if any(state.get(key) != mine.get(key) for key in ("schedule", "num_groups")):
            _log.log(
                self._level,
                "schedule: the run was started with %s, and goes on with %s.",
                *(kind.get("schedule", "a constant learning rate") for kind in (state, mine)),
            )
        elif self._torch is not None:
            self._torch.load_state_dict(dict(state["scheduler"]))
            for group, values in zip(self._optimizer.param_groups, state["groups"], strict=True):
                lists = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
                group.update(lists)
        else:
            self._epochs = int(state.get("epochs", 0))


def _rate_of(group: Mapping[str, Any]) -> float:
    """Return the learning rate of a group, or NaN if it has none."""
    rate = group.get("lr")
    return math.nan if rate is None else float(rate)


def _is_plain(value: object) -> bool:
    """Return whether JSON gives back a value as it is, but for tuples."""
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float)


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a scheduler's state; its functions and tables are constructed again."""
    kept: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            kept[name] = [_plain(cast(dict[str, Any], item)) for item in value]
        elif _is_plain(value):
            kept[name] = value
    return kept


def _expected(got: str) -> ConfigError:
    return ConfigError(
        f"schedule (--schedule): expected one of {', '.join(sorted(SCHEDULES))}, a JSON file or "
        "list of learning rates, a schedule of graphtheta.optim, or a torch.optim.lr_scheduler "
        f"object or function from the optimiser to one, got {got}."
    )
