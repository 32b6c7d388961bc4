"""The configuration of a run, resolved from the command line, a TOML file and an earlier start."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graphtheta.errors import ConfigError
from graphtheta.run.class_weight import parse_class_weight
from graphtheta.run.config import RunConfig, option_details
from graphtheta.train.run_dir import CHECKSUM, RunDirectory, text_hash

__all__ = [
    "check_group_options",
    "load_config",
    "read_toml",
    "resolve",
    "resolve_group",
    "validated",
]

# Options that each group of a parameter service has for itself.
_OF_GROUPS = ("input", "device", "threads", "timeout", "embedding_storage")
_LIMIT = 1 << 31  # counts are smaller than this


def resolve(
    options: Mapping[str, Any], *, file: Path | None = None, resume: bool = False
) -> RunConfig:
    """Return the configuration of a run.

    Options take precedence over the file, and the file over the defaults. A resumed run has the
    configuration that it was started with, which options and file may not contradict.

    Args:
        options: Options given on the command line, by field name.
        file: TOML file of further options.
        resume: Whether to continue the run in `run_dir`, if there is one.

    Raises:
        ConfigError: If a key is unknown, a value is invalid or missing, an option has no effect
            with the others, or differs from what a resumed run was started with.
    """
    given = {**(read_toml(file) if file else {}), **options}
    sources = {key: f"{file}: {key}" for key in given.keys() - options.keys()}
    run_dir = Path(given["run_dir"]) if resume and "run_dir" in given else None
    if run_dir is None or not RunDirectory(run_dir, resume=True).holds_run:
        config = validated(given, sources)
        _check_effects(options, config)
        return config
    started = _started_with(run_dir)
    config = validated({**started.record(), **given}, sources)
    for key in RunConfig.model_fields:
        old, new = getattr(started, key), getattr(config, key)
        if not option_details(key)["resumable"] and old != new:
            raise ConfigError(
                f"{sources.get(key, _flag(key))}: the run in {run_dir} was started with {old}, "
                f"got {new}. Leave it out to resume, or start another run in a new --run-dir."
            )
    return config


def check_group_options(options: Mapping[str, Any]) -> None:
    """Raise a ConfigError if an option of a group is one of the service, or INPUT is missing."""
    if odd := [key for key in options if key not in _OF_GROUPS]:
        raise ConfigError(
            f"{_flag(odd[0])}: expected no option of the run with --parameters, since the service "
            f"has it, got {options[odd[0]]}. Leave it out."
        )
    if "input" not in options:
        raise ConfigError("train: expected INPUT, got none. Name the store of the run.")


def resolve_group(received: Mapping[str, Any], options: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a group of workers that joins a parameter service.

    Args:
        received: Configuration of the service's run.
        options: Options given on the command line, by field name, as `check_group_options` allows.

    Raises:
        ConfigError: If the service has no configuration, or a value is invalid.
    """
    if not received:
        raise ConfigError(
            "--parameters: expected the service of graphtheta parameters, got one that a program "
            "has made. Join it with gt.Trainer(..., parameters=gt.ParameterClient(address))."
        )
    others = [key for key in received if key not in RunConfig.model_fields]
    if others:
        raise ConfigError(
            f"--parameters: expected a service of this version, got one with the options "
            f"{', '.join(others)}. Use the same version of GraphTheta on both sides."
        )
    kept = {key: value for key, value in received.items() if key not in _OF_GROUPS}
    sources = {key: f"--parameters: {key}" for key in kept}
    return validated({**kept, **options, "run_dir": "."}, sources)


def _check_effects(options: Mapping[str, Any], config: RunConfig) -> None:
    """Raise a ConfigError if a given option has no effect in this run."""
    for key in options:
        for other, values in option_details(key)["requires"].items():
            if (value := getattr(config, other)) not in values:
                expected = " or ".join(f"{_flag(other)} {value}" for value in values)
                raise ConfigError(
                    f"{_flag(key)}: expected {expected} with this option, got {_flag(other)} "
                    f"{value}. Change {_flag(other)}, or leave {_flag(key)} out."
                )


def load_config(run_dir: Path) -> RunConfig:
    """Return the configuration that a run was started with.

    Raises:
        ConfigError: If the directory holds no run, or its `config.toml` is damaged.
    """
    if not RunDirectory(run_dir, resume=True).holds_run:
        found = "a directory without it" if run_dir.exists() else "no such directory"
        raise ConfigError(
            f"{run_dir}: expected the directory of a run, with config.toml, got {found}. "
            "Use the --run-dir of graphtheta train."
        )
    return _started_with(run_dir)


def _started_with(run_dir: Path) -> RunConfig:
    path = RunDirectory(run_dir, resume=True).config
    # Runs of earlier versions have no key `weighted`, and did not read weights.
    values = {"weighted": False, **read_toml(path)}
    text, _, checksum = path.read_text().rpartition(CHECKSUM)
    if checksum and text and checksum.strip() != text_hash(text):
        raise ConfigError(
            f"{path}: expected the content that the run has written, got other content. Restore "
            "the file; if the change is meant, remove the line that starts with "
            f"'{CHECKSUM.strip()}'."
        )
    others = [key for key in values if key not in RunConfig.model_fields]
    if text and others:  # with a checksum, so no user has added them
        raise ConfigError(
            f"{path}: expected the options of this version of GraphTheta, got also "
            f"{', '.join(others)}: another version has written the run. Use that version, or train "
            "again in a new --run-dir."
        )
    if "input" not in values:
        raise ConfigError(
            f"{path}: expected the configuration of a run, got one without 'input'. Restore the "
            "file, or start the run again in a new --run-dir."
        )
    return validated({**values, "run_dir": run_dir}, {key: f"{path}: {key}" for key in values})


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        ConfigError: If there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected TOML, got an error: {error}. Correct it.") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a TOML file, got {error.strerror}. Check the path."
        ) from None


def validated(values: Mapping[str, Any], sources: Mapping[str, str]) -> RunConfig:
    """Return the configuration of some values.

    Args:
        values: By field name.
        sources: Where the values come from that were not given as options, for error messages.

    Raises:
        ConfigError: If a key is unknown, or a value is invalid or missing.
    """
    if isinstance(weights := values.get("class_weight"), str):
        values = {**values, "class_weight": parse_class_weight(weights)}
    for key, value in values.items():
        if isinstance(value, int) and value >= _LIMIT and key != "seed":
            raise ConfigError(
                f"{sources.get(key, _flag(key))}: expected less than {_LIMIT:,}, got {value:,}. "
                "Correct it."
            )
    try:
        return RunConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = sources.get(key, _flag(key))
        if first["type"] == "extra_forbidden":
            known = ", ".join(RunConfig.model_fields)
            raise ConfigError(f"{where}: unknown key. Choose among {known}.") from None
        if first["type"] == "missing":
            raise ConfigError(
                f"train: expected {where}, got none. Give it, or set '{key}' in --config."
            ) from None
        expected = first["msg"].removeprefix("Input should be ")
        raise ConfigError(
            f"{where}: expected {expected}, got {first['input']!r}. Correct it."
        ) from None


def _flag(key: str) -> str:
    return "INPUT" if key == "input" else f"--{key.replace('_', '-')}"
