"""Names from registries in help: importing them takes seconds, so only when help is printed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from typer.core import TyperCommand

__all__ = ["NamesInHelp"]

_REGISTRIES = {
    "communities": ("graphtheta.partition.analysis.detect_communities", "COMMUNITIES"),
    "datasets": ("graphtheta.datasets", "DATASETS"),
    "kernels": ("graphtheta.bench.kernels", "KERNELS"),
    "decoders": ("graphtheta.nn", "DECODERS"),
    "exporters": ("graphtheta.export", "EXPORTERS"),
    "forms": ("graphtheta.datasets", "READERS"),
    "methods": ("graphtheta.partition", "PARTITIONERS"),
    "models": ("graphtheta.nn", "MODELS"),
    "optimizers": ("graphtheta.train.trainer", "OPTIMIZERS"),
    "strategies": ("graphtheta.strategy", "STRATEGIES"),
    "tasks": ("graphtheta.task", "TASKS"),
}


class NamesInHelp(TyperCommand):
    """A command whose help may say `{models}` and the like."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill the names in, then print."""
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text and "{" in text:
                parameter.help = text.format_map(_Names())  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        module, registry = _REGISTRIES[name]
        return ", ".join(getattr(import_module(module), registry))
