"""RunConfig: everything that `graphtheta train` takes, from a TOML file and the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphtheta.errors import ConfigError
from graphtheta.train.run_dir import RunDirectory

__all__ = ["RunConfig", "load_run", "resolve"]

# A resumed run may be given these anew: they change how long it goes on, not what it computes.
_FREE = {
    *("checkpoint_every", "device", "epochs", "groups", "input", "micro_batches", "patience"),
    *("prefetch", "run_dir", "threads", "timeout"),
}

_MOST = 1 << 31  # above every count

# Options that say nothing but beside some values of another one.
_BESIDE = {
    **dict.fromkeys(("batch_size", "fanouts", "replace", "edge_weight"), ("strategy", ("mini",))),
    **dict.fromkeys(
        ("clusters_per_batch", "communities", "only", "boundary_hops", "renormalise"),
        ("strategy", ("cluster",)),
    ),
    **dict.fromkeys(
        ("negatives", "corrupt", "validation_messages", "ranking"), ("task", ("link",))
    ),
    **dict.fromkeys(("decoder", "relation_column", "exclude_targets"), ("task", ("edge", "link"))),
}


class RunConfig(BaseModel):
    """One run; the names are those of the options, and of the keys of a TOML file.

    Descriptions are the options' help; `{models}` and the like stand for names of a registry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    input: str = Field(description="A store, a data set's name, or a path or URI of a graph.")
    run_dir: Path = Field(description="Folder the run is written to.")
    model: str = Field("gcn", description="One of {models}.")
    task: str = Field(
        "node",
        description="What is learned: {tasks}: a label of nodes or of edges, "
        "or which edges there are.",
    )
    decoder: str | None = Field(
        None,
        description="Of edge and link: one of {decoders}; by default mlp of edge; of link dot, or "
        "distmult with a relation.",
    )
    relation_column: str | None = Field(
        None, description="Of edge and link: edge column of integers that the decoder reads."
    )
    negatives: int = Field(1, ge=1, description="Of link: negatives drawn for each edge.")
    corrupt: Literal["both", "dst", "src"] = Field(
        "both", description="Of link: the end of a negative that is drawn: dst, src, or both."
    )
    exclude_targets: bool | None = Field(
        None,
        description="Of edge and link: pass no messages along a step's targets, nor along other "
        "edges between the same nodes; by default in link alone.",
    )
    validation_messages: bool = Field(
        False, description="Of link: pass messages along validation edges when tested."
    )
    ranking: bool = Field(
        True, description="Of link: rank all nodes for each edge of validation and test."
    )
    embedding: int = Field(
        0, ge=0, description="Learned columns of each node, beside its features; 0: none."
    )
    strategy: str = Field("global", description="What makes a batch: {strategies}.")
    batch_size: int = Field(
        1024, ge=1, description="Of mini-batches: targets a step, over all workers."
    )
    fanouts: str = Field(
        "all", description="Of mini-batches: in-edges to draw, a layer each, as in 15,10,5; or all."
    )
    replace: bool = Field(False, description="Of mini-batches: draw an edge more than once.")
    edge_weight: str | None = Field(
        None, description="Of mini-batches: edge column that edges are drawn in proportion to."
    )
    clusters_per_batch: int = Field(20, ge=1, description="Of cluster-batches: communities a step.")
    communities: str = Field(
        "louvain",
        description="Of cluster-batches: a name in the store; or hanp: found at the start.",
    )
    only: str | None = Field(
        None,
        description="Of cluster-batches: the communities to train on, as in 3,7; by default all.",
    )
    boundary_hops: int = Field(
        0, ge=0, description="Of cluster-batches: in-hops around communities that are read, too."
    )
    renormalise: bool = Field(
        False, description="Of cluster-batches: take degrees of the batch, not of the graph."
    )
    prefetch: int = Field(
        0, ge=0, description="Batches prepared ahead, in the background; changes no result."
    )
    groups: int = Field(
        1, ge=1, description="Groups of workers, each with the whole graph; changes no result."
    )
    micro_batches: int = Field(
        1, ge=1, description="Parts a step is computed in, by whichever group is free."
    )
    epochs: int = Field(200, ge=1, description="Epochs in all, those of a resumed run included.")
    evaluate_every: int = Field(1, ge=1, description="Epochs between evaluations.")
    hidden: int = Field(
        16,
        ge=1,
        description="Columns of a hidden layer; of a head, with heads; of what a decoder reads.",
    )
    layers: int = Field(2, ge=1, description="Graph layers.")
    heads: int = Field(8, ge=1, description="Attention heads, in models that have them.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Probability, of nodes and of attention.")
    batch_norm: bool = Field(False, description="Normalise hidden layers over all workers.")
    num_bases: int | None = Field(
        None, ge=1, description="Matrices that R-GCN's relations combine; by default each has one."
    )
    optimizer: str = Field("adam", description="One of {optimizers}.")
    lr: float = Field(0.01, gt=0, description="Learning rate.")
    weight_decay: float = Field(5e-4, ge=0, description="Of all parameters.")
    seed: int = Field(0, ge=0, lt=2**63, description="Of the first weights and all that is drawn.")
    patience: int | None = Field(
        None, ge=0, description="End after so many epochs without a better validation."
    )
    label: str | None = Field(None, description="What to learn, if there are several labels.")
    split: str | None = Field(None, description="Which split, if there are several.")
    checkpoint_every: int = Field(
        0, ge=0, description="Epochs between checkpoints; 0: on SIGTERM, SIGUSR1 and at the end."
    )
    method: str | None = Field(
        None, description="How an input that is no store is partitioned: {methods}."
    )
    undirected: bool = Field(False, description="Add the reverse of every edge of such an input.")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="cpu, or cuda: a host's GPUs, one a worker."
    )
    threads: int | None = Field(
        None, ge=1, description="Threads a worker; by default the host's cores over its workers."
    )
    timeout: float = Field(1800.0, gt=0, description="Seconds a worker waits for another.")

    def record(self) -> dict[str, Any]:
        """Return what `config.toml` holds: all but the place, so that a run can be moved."""
        return self.model_dump(mode="json", exclude={"run_dir"}, exclude_none=True)


def resolve(
    options: Mapping[str, Any], *, file: Path | None = None, resume: bool = False
) -> RunConfig:
    """Return the configuration of a run.

    Options come before the file, the file before the defaults. To resume is to take the
    configuration that the run was started with, which options and file may not contradict.

    Args:
        options: Those that were given on the command line, by name.
        file: A TOML file with some of the others.
        resume: Whether to go on with the run in `run_dir`, if one was started there.

    Raises:
        ConfigError: If a key is unknown, a value is wrong, something is missing, an option says
            nothing beside the others, or a resumed run was started with another value.
    """
    given = {**(_read(file) if file else {}), **options}
    names = {key: f"{file}: {key}" for key in given.keys() - options.keys()}
    run_dir = Path(given["run_dir"]) if resume and "run_dir" in given else None
    if run_dir is None or not RunDirectory(run_dir, resume=True).holds_run:
        config = _checked(given, names)
        _refuse_idle(options, config)
        return config
    started = _started(run_dir)
    config = _checked({**started.record(), **given}, names)
    for key in RunConfig.model_fields:
        old, new = getattr(started, key), getattr(config, key)
        if key not in _FREE and old != new:
            raise ConfigError(
                f"{names.get(key, _option(key))}: the run in {run_dir} was started with {old}, "
                f"got {new}. Leave it out to resume, or start another run in a new --run-dir."
            )
    return config


def _refuse_idle(options: Mapping[str, Any], config: RunConfig) -> None:
    """Raise a ConfigError if an option was given that says nothing in this run."""
    for key in options:
        other, values = _BESIDE.get(key, ("", ()))
        if other and getattr(config, other) not in values:
            raise ConfigError(
                f"{_option(key)}: expected {_option(other)} {' or '.join(values)} beside it, got "
                f"{getattr(config, other)}. Give {_option(other)}, or leave it out."
            )


def load_run(run_dir: Path) -> RunConfig:
    """Return the configuration that a run was started with.

    Raises:
        ConfigError: If there is no run, or its `config.toml` is damaged.
    """
    if not RunDirectory(run_dir, resume=True).holds_run:
        raise ConfigError(
            f"{run_dir}: expected the folder of a run (with config.toml), got "
            f"{'a folder without one' if run_dir.exists() else 'none'}. "
            "Name the --run-dir of a run."
        )
    return _started(run_dir)


def _started(run_dir: Path) -> RunConfig:
    path = RunDirectory(run_dir, resume=True).config
    values = _read(path)
    return _checked({**values, "run_dir": run_dir}, {key: f"{path}: {key}" for key in values})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got an error: {error}. Correct it.") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a TOML file, got {error.strerror}. Check the path."
        ) from None


def _checked(values: Mapping[str, Any], names: Mapping[str, str]) -> RunConfig:
    """Check values; `names` says where those come from that were not given as options."""
    for key, value in values.items():
        if isinstance(value, int) and value >= _MOST and key != "seed":
            raise ConfigError(
                f"{names.get(key, _option(key))}: expected less than {_MOST:,}, got {value:,}. "
                "Correct it."
            )
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = names.get(key, _option(key))
        if first["type"] == "extra_forbidden":
            known = ", ".join(RunConfig.model_fields)
            raise ConfigError(f"{where}: unknown key. Choose among {known}.") from None
        if first["type"] == "missing":
            raise ConfigError(
                f"train: expected {where}, got none. Give it, or set '{key}' in --config."
            ) from None
        wanted = first["msg"].removeprefix("Input should be ")
        raise ConfigError(
            f"{where}: expected {wanted}, got {first['input']!r}. Correct it."
        ) from None


def _option(key: str) -> str:
    return "INPUT" if key == "input" else f"--{key.replace('_', '-')}"
