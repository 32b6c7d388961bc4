"""Executors of a model's layers. A fallback to the chunked one would distort a measurement."""

from __future__ import annotations

from torch import nn

from graphtheta.errors import ConfigError
from graphtheta.tgar import TGARLayer
from graphtheta.tgar.explain import Explanation

__all__ = ["chunked_layers", "executors", "require_fused"]


def executors(model: nn.Module) -> list[str]:
    """Return the executors of the last forward pass, without repeats."""
    return sorted({explanation.executor for explanation in _explained(model)})


def chunked_layers(model: nn.Module) -> list[str]:
    """Return a line for each layer that the last forward pass did not fuse, with the reason."""
    return [f"{e.layer} ({e.reason})" for e in _explained(model) if e.executor != "fused"]


def require_fused(model: nn.Module) -> None:
    """Check that the last forward pass ran every layer on the fused executor.

    Raises:
        ConfigError: If a layer ran on the chunked executor; the message names the reason.
    """
    if chunked := chunked_layers(model):
        raise ConfigError(
            f"bench: expected fused kernels, got the chunked executor for {'; '.join(chunked)}. "
            "Add --allow-chunked to measure it nevertheless."
        )


def _explained(model: nn.Module) -> list[Explanation]:
    return [layer.explain() for layer in model.modules() if isinstance(layer, TGARLayer)]
