"""Protocol of callbacks, and the call of several of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from graphtheta.errors import ConfigError

__all__ = ["Callback", "Callbacks"]


class Callback:
    """Base of callbacks, whose methods do nothing; any object with some of them is a callback too.

    Methods are called on all workers with the `Trainer`, in the order in which callbacks are given.
    A collective, such as `trainer.evaluate()` or `trainer.save(...)`, must be called on all of
    them. An error ends training as any other does. `trainer.stop()` ends it after the epoch. A step
    is a batch of the strategy; with `accumulate`, several of them are one update.
    """

    def on_fit_begin(self, trainer: Any, epochs: int) -> None:
        """Called when `fit` starts to train until `epochs` epochs are done in total."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Called before an epoch, counted from 0."""

    def on_step_begin(self, trainer: Any, step: int) -> None:
        """Called before a step, counted from 0 over all epochs."""

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Called after a step, with the mean loss of its targets over all workers."""

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
        """Called after an epoch and its evaluation, with its line of metrics.

        It may add numbers to `metrics`: loggers, `metrics.jsonl` and TensorBoard get them too.
        """

    def on_fit_end(self, trainer: Any, summary: Mapping[str, Any]) -> None:
        """Called when `fit` is over, with the summary; the model has the weights of the best epoch.

        It is not called after an error or a signal.
        """

    def close(self) -> None:
        """Called at the end of `fit` in any case, to close files."""


_METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class Callbacks:
    """Several callbacks, which are called one after the other.

    Args:
        callbacks: Callbacks of the user.
        last: Callbacks that are called after them, as loggers are.

    Raises:
        ConfigError: If an object has no method of `Callback`, or another one that starts with
            `on_`.
    """

    def __init__(self, callbacks: Iterable[Any], last: Iterable[Any] = ()) -> None:
        self._callbacks = [*callbacks, *last]
        for callback in self._callbacks:
            given = {n for n in dir(callback) if n.startswith("on_")}
            unknown = sorted(given - {*_METHODS})
            if isinstance(callback, type) or unknown or not given:
                name = getattr(callback, "__name__", type(callback).__name__)
                got = f"the method {unknown[0]}" if unknown else "none of them"
                if isinstance(callback, type):
                    got = "a class; construct an object of it"
                raise ConfigError(
                    f"trainer: expected callbacks with some of {', '.join(_METHODS)}, got {name} "
                    f"with {got}."
                )

    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of all callbacks that have it."""
        for callback in self._callbacks:
            function = getattr(callback, method, None)
            if function is not None:
                function(*arguments)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Context that closes all callbacks at its end."""
        with ExitStack() as stack:
            for callback in self._callbacks:
                if hasattr(callback, "close"):
                    stack.callback(callback.close)
            yield
