"""Fan-outs of a run: the texts of `--fanouts`, for all edges or for each relation."""

from __future__ import annotations

from collections.abc import Mapping

from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.strategy.mini_batch import RelationName
from graphtheta.wording import counted

__all__ = ["fanouts_of"]

FanoutsOfLayers = list[int | None]


def fanouts_of(
    given: str | Mapping[str, str], layers: int
) -> FanoutsOfLayers | dict[RelationName, FanoutsOfLayers] | None:
    """Return the fan-outs of `MiniBatch` from the value of the option.

    Args:
        given: Numbers of in-edges, or these by relation.
        layers: Number of graph layers.

    Raises:
        ConfigError: If a text is no list with a number for each layer, or no name of a relation.
    """
    if isinstance(given, str):
        return None if given == "all" else _numbers(given, layers, "--fanouts", 1)
    found: dict[RelationName, FanoutsOfLayers] = {}
    for text, numbers in given.items():
        try:
            relation = Relation.of(text)
        except ConfigError as error:
            raise ConfigError(f"--fanouts: {error}") from None
        found[relation] = _numbers(numbers, layers, f"--fanouts: {text}", 0)
    return found


def _numbers(text: str, layers: int, where: str, least: int) -> FanoutsOfLayers:
    """Parse the fan-out of each layer; None for all in-edges."""
    single = ("all",) if least else ("all", "0")  # they may be given once for all layers
    items = [text] * layers if text in single else [item.strip() for item in text.split(",")]
    valid = all(item == "all" or (item.isdecimal() and int(item) >= least) for item in items)
    if not valid or len(items) != layers:
        raise ConfigError(
            f"{where}: expected {' or '.join(single)}, or a number or all for each of "
            f"{counted(layers, 'layer')}, such as {','.join(['10'] * layers)}, got '{text}'. "
            "Correct it, or change --layers."
        )
    return [None if item == "all" else int(item) for item in items]
