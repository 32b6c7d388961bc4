"""Schedules of the learning rate: by name, as a list of rates, and from a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal, Protocol

from graphtheta.errors import ConfigError
from graphtheta.runtime.numbers import need_real
from graphtheta.wording import counted

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Linear",
    "RateList",
    "Schedule",
    "StepDecay",
    "WarmupStableDecay",
    "read_rates",
]

By = Literal["step", "epoch"]
Shape = Literal["linear", "sqrt", "cosine"]

_SHAPES: dict[str, Callable[[float], float]] = {  # from 1 at 0 to 0 at 1
    "linear": lambda x: 1 - x,
    "sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}


class Schedule(Protocol):
    """Rule for the learning rate of each step or epoch."""

    @property
    def by(self) -> By:
        """Whether the rate changes with every step or with every epoch."""

    def check(self, total: int) -> None:
        """Raise a ConfigError if a run of `total` steps or epochs does not fit the schedule."""

    def rate(self, position: int, total: int, base: float) -> float:
        """Return the learning rate of a step or epoch.

        Args:
            position: Number of the step or epoch, from 0.
            total: Number of steps or epochs of the run.
            base: Learning rate that the optimiser was constructed with.
        """


@dataclass(frozen=True)
class _Named:
    """Base of schedules that multiply the learning rate, after a linear warm-up.

    Args:
        warmup: Number of steps or epochs in which the rate rises from near 0, or below 1 their
            share of the run.
        by: Whether the rate changes with every step or with every epoch.
    """

    warmup: float = 0
    _: KW_ONLY
    by: By = "step"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.by not in ("step", "epoch"):
            raise ConfigError(
                f"{name}: expected by='step' or 'epoch', got {self.by!r}. Correct it."
            )
        for option, value in vars(self).items():
            if option in ("warmup", "decay", "every") and value is not None:
                _need_length(value, f"{name}: {option}")
            elif option in ("final", "gamma"):
                need_real(value, f"{name}: {option}", is_positive=False)
        shape = getattr(self, "shape", "linear")
        if shape not in _SHAPES:
            raise ConfigError(
                f"{name}: expected a shape of {', '.join(_SHAPES)}, got {shape!r}. Choose one."
            )

    def check(self, total: int) -> None:
        parts = {n: _length(getattr(self, n, 0), total) for n in ("warmup", "decay")}
        if sum(parts.values()) > total:
            given = " and ".join(f"{name} of {count}" for name, count in parts.items() if count)
            raise ConfigError(
                f"schedule (--schedule): expected parts of {counted(total, self.by)}, got a "
                f"{given}. Shorten them, or train for more epochs."
            )

    def rate(self, position: int, total: int, base: float) -> float:
        warmup = _length(self.warmup, total)
        if position < warmup:
            return base * (position + 1) / warmup
        return base * self._factor(position - warmup, max(total - warmup, 1))

    def _factor(self, position: int, total: int) -> float:
        """Return the factor after the warm-up, of which `position` and `total` are free."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(_Named):
    """Constant learning rate after a linear warm-up."""

    def _factor(self, position: int, total: int) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay(_Named):
    """Learning rate that is multiplied by `gamma` at regular distances.

    Args:
        warmup: Number of steps or epochs in which the rate rises from near 0, or below 1 their
            share of the run.
        every: Number of steps or epochs between two changes, or below 1 their share of what follows
            the warm-up.
        gamma: Factor of each change.
    """

    _: KW_ONLY
    every: float = 1 / 3
    gamma: float = 0.1

    def _factor(self, position: int, total: int) -> float:
        return float(self.gamma ** (position // max(_length(self.every, total), 1)))


@dataclass(frozen=True)
class Cosine(_Named):
    """Learning rate that falls along half a cosine to a share `final` at the end of the run.

    Source:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """

    _: KW_ONLY
    final: float = 0.0

    def _factor(self, position: int, total: int) -> float:
        return _fall("cosine", position / total, self.final)


@dataclass(frozen=True)
class Linear(_Named):
    """Learning rate that falls linearly to a share `final` at the end of the run."""

    _: KW_ONLY
    final: float = 0.0

    def _factor(self, position: int, total: int) -> float:
        return _fall("linear", position / total, self.final)


@dataclass(frozen=True)
class WarmupStableDecay(_Named):
    """Learning rate that is constant, and falls to a share `final` in the last part of the run.

    Args:
        warmup: Number of steps or epochs in which the rate rises from near 0, or below 1 their
            share of the run.
        decay: Number of steps or epochs in which the rate falls, or below 1 their share of the run.
        shape: Curve of the fall: `linear`, `sqrt` (1 - sqrt(x)) or `cosine`.
        final: Share of the rate at the end of the run.

    Source:
        Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
        NeurIPS 2024.
    """

    _: KW_ONLY
    decay: float = 0.2
    shape: Shape = "linear"
    final: float = 0.0

    def rate(self, position: int, total: int, base: float) -> float:
        decay = _length(self.decay, total)
        passed = position - (total - decay)
        if passed < 0:
            return super().rate(position, total, base)
        return base * _fall(self.shape, passed / decay if decay else 1.0, self.final)

    def _factor(self, position: int, total: int) -> float:
        return 1.0


# A schedule by name: called with its options as keyword arguments.
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "cosine": Cosine,
    "linear": Linear,
    "wsd": WarmupStableDecay,
}


@dataclass(frozen=True, repr=False)
class RateList:
    """List of learning rates, one for each step or epoch; the optimiser's own is not used.

    Groups of parameters with another learning rate than the first keep its ratio to that.

    Args:
        lr: Learning rates, as many as there are steps or epochs, or more.
        by: Whether they are for steps or for epochs.
    """

    lr: tuple[float, ...]
    by: By = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", tuple(self.lr))
        _check_by(self.by)
        if not self.lr:
            raise ConfigError("schedule: expected learning rates, got an empty list. Add some.")
        for number, rate in enumerate(self.lr):
            if isinstance(rate, bool):
                raise ConfigError(f"schedule: lr[{number}]: expected a number, got {rate}.")
            need_real(rate, f"schedule: lr[{number}]", is_positive=False)

    def __repr__(self) -> str:
        text = hashlib.sha256(repr([float(rate) for rate in self.lr]).encode()).hexdigest()[:16]
        return f"RateList({counted(len(self.lr), 'rate')} of hash {text}, by={self.by!r})"

    def check(self, total: int) -> None:
        if len(self.lr) < total:
            raise ConfigError(
                f"schedule (--schedule): expected learning rates for {counted(total, self.by)}, "
                f"got {len(self.lr)}. Add rates, or train for fewer epochs."
            )

    def rate(self, position: int, total: int, base: float) -> float:
        return float(self.lr[min(position, len(self.lr) - 1)])


def read_rates(path: Path) -> RateList:
    """Return the list of learning rates of a JSON file: {"lr": [...], "by": "step"}.

    `by` is "step" (the default) or "epoch". Other keys are ignored.

    Raises:
        ConfigError: If the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a JSON file with learning rates, got {error.strerror}. Check the "
            "path (--schedule)."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, got an error: {error}. Correct it.") from None
    if not isinstance(content, dict) or not isinstance(content.get("lr"), list):
        got = f"{', '.join(map(str, content))}" if isinstance(content, dict) else "no object"
        raise ConfigError(
            f'{path}: expected an object with a list of learning rates, as {{"lr": [0.01, 0.005]}}'
            f", got {got or 'an empty one'}. Correct it."
        )
    try:
        return RateList(tuple(content["lr"]), content.get("by", "step"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_by(by: object) -> None:
    if by not in ("step", "epoch"):
        raise ConfigError(f"schedule: expected by='step' or 'epoch', got {by!r}. Correct it.")


def _fall(shape: str, x: float, final: float) -> float:
    return final + (1 - final) * _SHAPES[shape](min(x, 1.0))


def _length(value: float | None, total: int) -> int:
    """Return a number of steps or epochs that is given as one, or as a share of all below 1."""
    return 0 if value is None else round(value * total) if value < 1 else int(value)


def _need_length(value: object, what: str) -> None:
    number = need_real(value, what, is_positive=False)
    if number >= 1 and number != int(number):
        raise ConfigError(
            f"{what}: expected a whole number of steps or epochs, or a share below 1, got {value}."
        )
