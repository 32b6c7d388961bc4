"""Errors of one line for the arguments of constructors: names of other libraries, tensors."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from graphtheta.errors import ArgumentError

__all__ = ["with_plain_errors"]

# What other libraries, or the command line, call an argument.
_SYNONYMS = {
    **dict.fromkeys(("layers", "n_layers", "num_convs", "depth"), "num_layers"),
    **dict.fromkeys(
        ("hidden", "hidden_dim", "hidden_size", "hidden_feats", "n_hidden", "nhid", "hid_feats"),
        "hidden_channels",
    ),
    **dict.fromkeys(
        ("in_dim", "in_feats", "in_features", "in_size", "input_dim", "nfeat"), "in_channels"
    ),
    **dict.fromkeys(
        ("out", "out_dim", "out_feats", "out_features", "out_size", "output_dim", "num_classes",
         "n_classes", "nclass"),
        "out_channels",
    ),
    **dict.fromkeys(("num_heads", "n_heads", "nheads", "head"), "heads"),
    **dict.fromkeys(("aggr", "aggregator_type", "aggregation", "reduce"), "aggregator"),
    **dict.fromkeys(("drop", "dropout_rate", "feat_drop", "attn_drop"), "dropout"),
    **dict.fromkeys(("batchnorm", "bn", "use_bn"), "batch_norm"),
    **dict.fromkeys(("jk", "jump", "jumping"), "jumping_knowledge"),
    **dict.fromkeys(("edge_channels", "edge_features", "edge_feats"), "edge_dim"),
    **dict.fromkeys(("relations", "num_rels", "num_edge_types"), "num_relations"),
    **dict.fromkeys(("bases",), "num_bases"),
    **dict.fromkeys(("edge_weight", "use_weights", "weights"), "weighted"),
    **dict.fromkeys(("dim", "embedding_dim", "size"), "channels"),
    **dict.fromkeys(("rate", "prob", "probability"), "p"),
}  # fmt: skip


def with_plain_errors(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that raises an ArgumentError for arguments that it does not take."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        aliases = getattr(type(self), "aliases", {})
        for given in aliases.keys() & kwargs.keys():
            if aliases[given] not in kwargs:
                kwargs[aliases[given]] = kwargs.pop(given)
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            known = _arguments_of(type(self))
            raise ArgumentError(f"{name}: {_explained(str(error), kwargs, known)}") from None
        expected = getattr(type(self), "tensor_arguments", ())
        tensors = [
            n for n, v in bound.arguments.items() if isinstance(v, Tensor) and n not in expected
        ]
        if tensors:
            raise ArgumentError(
                f"{name}: expected a size or an option as {tensors[0]}, got a tensor. Construct "
                f"the module first, as model = {name}(...), and then call it as model(view, x)."
            )
        for size, value in bound.arguments.items():
            _require_size(name, size, value)
        init(self, *args, **kwargs)

    return checked


def _require_size(name: str, size: str, value: Any) -> None:
    """Raise an ArgumentError if a number of columns is one of PyG's other forms."""
    if not size.endswith("_channels"):
        return
    if isinstance(value, tuple | list | dict):
        raise ArgumentError(
            f"{name}: expected one number as {size}, got {value}. Nodes of all types have rows of "
            "one width: use TypedInput before the first layer."
        )
    if value == -1:
        raise ArgumentError(
            f"{name}: expected a number of columns as {size}, got -1, which is not found when the "
            "module is first called. Give it, such as shard.num_features."
        )


def _arguments_of(kind: type) -> list[str]:
    """Return the names of the arguments of a class and its bases, in order."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base) and base.__module__.startswith("graphtheta."):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
            names |= dict.fromkeys(named)
    return list(names)


def _explained(reason: str, kwargs: dict[str, Any], known: Sequence[str]) -> str:
    unknown = next((name for name in kwargs if name not in known), None)
    listed = f"It takes {', '.join(known)}."
    if unknown is None:
        return f"{reason.removeprefix('got ')}. {listed}"
    meant = _SYNONYMS.get(unknown, "")
    close = [meant] if meant in known else difflib.get_close_matches(unknown, known, 1)
    return (
        f"unexpected keyword argument '{unknown}'. "
        + (f"Use {close[0]}. " if close else "")
        + listed
    )
