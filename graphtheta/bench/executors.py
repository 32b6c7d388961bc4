"""Which executor ran a model's layers: a fallback to the chunked one spoils a measurement."""

from __future__ import annotations

from torch import nn

from graphtheta.errors import ConfigError
from graphtheta.tgar import TGARLayer

__all__ = ["chunked_layers", "executors", "refuse_chunked"]


def executors(model: nn.Module) -> list[str]:
    """Return the executors that ran the model's layers in its last forward pass, each once."""
    return sorted({executor for _, executor, _ in _explained(model)})


def chunked_layers(model: nn.Module) -> list[str]:
    """Return the layers that the last forward pass did not run fused, and why, in a line each."""
    return [f"{name} ({why})" for name, executor, why in _explained(model) if executor != "fused"]


def refuse_chunked(model: nn.Module) -> None:
    """Raise an error unless the last forward pass ran every layer fused.

    Raises:
        ConfigError: If a layer ran by another executor; it says why.
    """
    if chunked := chunked_layers(model):
        raise ConfigError(
            f"bench: expected fused kernels, got the chunked executor for {'; '.join(chunked)}. "
            "Pass --allow-chunked to measure it all the same."
        )


def _explained(model: nn.Module) -> list[tuple[str, str, str]]:
    found = []
    for layer in model.modules():
        if isinstance(layer, TGARLayer):
            said = layer.explain()
            found.append((said.layer, said.executor, said.reason))
    return found
