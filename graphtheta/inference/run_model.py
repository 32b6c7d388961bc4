"""Call of a model on a view, with errors of one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.tgar import View, refuse_compiled, refuse_mixed_precision
from graphtheta.tgar.layer import ROWS_OF_A_LAYER
from graphtheta.tgar.mixed_precision import float_rows

__all__ = ["run_model"]

_OF_SHAPES = re.compile(r"\b(sizes?|shapes?|dimensions?)\b", re.IGNORECASE)
_OF_DTYPES = re.compile(r"\b(dtype|scalar type)\b")


def run_model(model: nn.Module, view: View, *, method: str = "__call__") -> Tensor:
    """Return what a model computes from a view and the features of its inputs; collective.

    Args:
        model: Called as model(view, x), where x has the dtype of its parameters.
        view: The batch.
        method: Name of the method to call instead, `embed`.

    Raises:
        ConfigError: If the model is compiled by torch, computes in another dtype than float32 or
            float64, or with autocast, joins tensors of other shapes or dtypes, or does not return a
            tensor of rows.
    """
    refuse_compiled(model, "model")
    dtype = next(model.parameters(), torch.empty(0)).dtype
    refuse_mixed_precision("model", dtype, view.shard.device.type)
    run: Callable[[View, Tensor], Any] = getattr(model, method)
    try:
        result = run(view, view.inputs(dtype))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        if _OF_DTYPES.search(reason):
            raise ConfigError(
                f"model: expected tensors of one dtype, got: {reason}. Keep the dtype of x, as "
                "h.to(x.dtype) does."
            ) from error
        if not _OF_SHAPES.search(reason):
            raise
        remedy = "Check the numbers of columns." if view.blocks is None else ROWS_OF_A_LAYER
        raise ConfigError(
            f"model: expected tensors of matching shapes, got: {reason}. {remedy}"
        ) from error
    if not isinstance(result, Tensor) or not result.dim() or not result.is_floating_point():
        got = type(result).__name__
        if isinstance(result, Tensor):
            got = f"{result.dtype} of shape {tuple(result.shape)}"
        raise ConfigError(
            "model: expected forward to return a floating-point tensor with a row for each node, "
            f"got {got}. Return the outputs only."
        )
    rows: Tensor = float_rows(result)
    return rows
