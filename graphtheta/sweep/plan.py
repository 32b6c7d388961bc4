"""What a sweep is to do, from its TOML file: options of every trial, a space to search, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from graphtheta.errors import ConfigError
from graphtheta.run.config import RunConfig, option_details
from graphtheta.run.resolve import read_toml, validated

__all__ = ["Choices", "Dimension", "Range", "SweepOptions", "SweepPlan", "read_plan"]

Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Choice = bool | Number | Annotated[str, Field(strict=True)]
_NOT_SEARCHED = ("Input", "Run", "Machine")  # sections of options that all trials share


class Range(BaseModel):
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: Lowest number.
        high: Highest number.
        log: Whether their logarithm is searched.
        step: Distance between two numbers; if None, all numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None


Choices: TypeAlias = Annotated[list[Choice], Field(min_length=1)]
Dimension: TypeAlias = Range | Choices


class SweepOptions(BaseModel):
    """Table `[sweep]` of the file.

    Attributes:
        trials: Number of trials in total, including those of an earlier start.
        seed: Random seed of the search.
        monitor: Number of an epoch to optimise, such as `val_loss`; if None, the validation metric
            that chooses the best epoch of a run.
        direction: Whether to maximise or minimise it; if None, as the run does.
        pruner: What stops trials that are worse than others after as many epochs.
        min_epochs: Epochs that each trial trains before it can be stopped; if None, a tenth of its
            epochs, and at least 5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(20, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)
    monitor: str | None = None
    direction: Literal["maximize", "minimize"] | None = None
    pruner: Literal["median", "hyperband", "none"] = "median"
    min_epochs: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do.

    Attributes:
        folder: Folder of the sweep, with a run in a folder of its own for each trial.
        base: Options that all trials share, by field of `RunConfig`.
        space: What is searched, by field of `RunConfig`.
        options: Table `[sweep]`.
        source: The file, for error messages.
    """

    folder: Path
    base: dict[str, Any]
    space: dict[str, Dimension]
    options: SweepOptions
    source: Path

    def config(self, params: Mapping[str, Any], run_dir: Path) -> RunConfig:
        """Return the configuration of a trial.

        Args:
            params: Values of the options that are searched.
            run_dir: Folder of its run.

        Raises:
            ConfigError: If a value is invalid.
        """
        sources = {key: f"{self.source}: {key}" for key in self.base}
        sources |= {key: f"{self.source}: space.{key}" for key in params}
        storage = self.base.get("embedding_storage")
        own = {} if storage is None else {"embedding_storage": Path(storage) / run_dir.name}
        return validated({**self.base, **own, **params, "run_dir": run_dir}, sources)

    def first_params(self) -> dict[str, Any]:
        """Return the first value of each option that is searched."""
        return {name: next(_ends(dimension)) for name, dimension in self.space.items()}

    def every_end(self) -> Iterator[dict[str, Any]]:
        """Yield values of the options that are searched, so that all choices and ends occur."""
        first = self.first_params()
        yield first
        for name, dimension in self.space.items():
            for value in _ends(dimension):
                yield {**first, name: value}

    def record(self) -> dict[str, Any]:
        """Return the content of `plan.toml` in the folder of the sweep."""
        space = {
            name: dimension.model_dump(exclude_none=True, exclude_defaults=True)
            if isinstance(dimension, Range)
            else dimension
            for name, dimension in self.space.items()
        }
        return {**self.base, "sweep": self.options.model_dump(exclude_none=True), "space": space}

    def check_continues(self, before: SweepPlan) -> None:
        """Raise a ConfigError if trials of an earlier start could not be compared with new ones."""
        pairs = {f"space.{n}": (before.space.get(n), self.space.get(n)) for n in
                 {**before.space, **self.space}}  # fmt: skip
        for name in ("seed", "monitor", "direction"):
            pairs[f"sweep.{name}"] = tuple(getattr(p.options, name) for p in (before, self))
        for name in {**before.base, **self.base}:
            if name not in self.space and option_details(name)["panel"] not in ("Run", "Machine"):
                pairs[name] = (before.base.get(name), self.base.get(name))
        for name, (old, new) in pairs.items():
            if old != new:
                was, now = ("nothing" if value is None else value for value in (old, new))
                raise ConfigError(
                    f"{self.source}: {name}: the sweep in {self.folder} was started with {was}, "
                    f"got {now}. Restore it to continue the sweep, or choose another run_dir."
                )


def read_plan(path: Path, folder: Path | None = None) -> SweepPlan:
    """Read a sweep from its TOML file.

    Args:
        path: The file.
        folder: Folder of the sweep. If None, that of the key `run_dir`.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, or a value is invalid.
    """
    content = read_toml(path)
    space, options = content.pop("space", None), content.pop("sweep", {})
    named = content.pop("run_dir", None)
    if folder is None and not isinstance(named, str):
        raise ConfigError(
            f"{path}: expected the folder of the sweep, got none. Add run_dir = \"FOLDER\", or "
            "give --run-dir."
        )  # fmt: skip
    if not isinstance(space, dict) or not space:
        raise ConfigError(
            f"{path}: expected a table [space] of options to search, got "
            f"{'an empty one' if space == {} else 'none' if space is None else 'another value'}. "
            "Add one, such as lr = {low = 1e-4, high = 1e-1, log = true}."
        )
    if "input" not in content:
        raise ConfigError(f'{path}: expected input = "STORE", got none. Add it.')
    checked = _checked(TypeAdapter(SweepOptions), options, f"{path}: sweep")
    dimensions = {name: _dimension(name, value, path) for name, value in space.items()}
    base = {name: value for name, value in content.items() if name not in dimensions}
    plan = SweepPlan(folder or Path(named or ""), base, dimensions, checked, path)
    for params in plan.every_end():
        plan.config(params, plan.folder)
    return plan


def _dimension(name: str, value: Any, path: Path) -> Dimension:
    where = f"{path}: space.{name}"
    if name not in RunConfig.model_fields:
        known = [n for n in RunConfig.model_fields if _is_searchable(n)]
        raise ConfigError(f"{where}: unknown option. Choose among {', '.join(known)}.")
    if not _is_searchable(name):
        raise ConfigError(
            f"{where}: expected an option of the model or of training, got one that all trials "
            "share. Set it outside of [space]."
        )
    if not isinstance(value, dict):
        found: list[Choice] = _checked(TypeAdapter(Choices), value, where)
        return found
    limits: Range = _checked(TypeAdapter(Range), value, where)
    odd = ""
    if limits.low > limits.high:
        odd = f"low {limits.low} above high {limits.high}"
    elif limits.log and limits.low <= 0:
        odd = f"log = true with low {limits.low}"
    elif limits.step is not None and (limits.log or limits.step <= 0):
        odd = f"step {limits.step}" + " with log = true" * limits.log
    elif float not in _types(name) and not all(
        isinstance(n, int) for n in (limits.low, limits.high, limits.step or 1)
    ):
        odd = f"{limits.low} to {limits.high} of an option of whole numbers"
    elif not {int, float} & _types(name):
        odd = "a range of an option without numbers"
    if odd:
        raise ConfigError(
            f"{where}: expected a range with low <= high, log or step, got {odd}. Correct it."
        )
    if float in _types(name):
        limits = limits.model_copy(update={n: float(v) for n, v in limits if _is_number(v)})
    return limits


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_searchable(name: str) -> bool:
    return option_details(name)["panel"] not in _NOT_SEARCHED and name != "epochs"


def _types(name: str) -> set[Any]:
    annotation = RunConfig.model_fields[name].annotation
    return {*(get_args(annotation) or (annotation,))}


def _ends(dimension: Dimension) -> Iterator[Any]:
    yield from (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension


def _checked(adapter: TypeAdapter[Any], value: Any, where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        key = key if adapter.core_schema.get("type") == "model" else ""
        given = first["input"]
        raise ConfigError(
            f"{where}{f'.{key}' if key else ''}: expected "
            f"{first['msg'].removeprefix('Input should be ')}, got {given!r}. Correct it."
        ) from None
