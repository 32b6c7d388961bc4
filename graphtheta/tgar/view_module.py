"""Base of modules that are called on a view, which refuses other calls in one line."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.tgar.arguments import with_plain_errors
from graphtheta.tgar.batch.view import LayerView, View
from graphtheta.tgar.mixed_precision import float_rows, refuse_mixed_precision
from graphtheta.wording import counted

__all__ = ["ViewModule", "refuse_compiled"]


class ViewModule(nn.Module):
    """Base of modules that are called as module(view, x).

    Attributes:
        takes: `View` for a model of several layers, `LayerView` for one layer.
        is_graph_layer: Whether it counts as one graph layer, whatever layers it is made of.
        has_statistics: Whether it computes with statistics over all nodes of a batch.

        tensor_arguments: Names of constructor arguments that are tensors.
        aliases: Names of constructor arguments in other libraries, with the names here.

    Raises:
        ConfigError: If the module is called as in another library, or with autocast to another
            dtype than bfloat16.
    """

    takes: ClassVar[type[View] | type[LayerView]] = LayerView
    tensor_arguments: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[dict[str, str]] = {}
    is_graph_layer: ClassVar[bool] = False
    has_statistics: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and cls.__module__.startswith("graphtheta."):
            cls.__init__ = with_plain_errors(cls.__init__)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        view = args[0] if args else kwargs.get("view")
        if not isinstance(view, self.takes) or (
            len(args) + len(kwargs) != 2 and not self._binds(*args, **kwargs)
        ):
            self._refuse_arguments(view, len(args) + len(kwargs))
        for x in (*args, *kwargs.values()):
            if x is None:
                raise ConfigError(
                    f"{type(self).__name__}: expected the rows of the nodes, got None. Return a "
                    "tensor from the module or function before it."
                )
            if type(x) in (tuple, list, dict) and type(self).__module__.startswith("graphtheta."):
                raise ConfigError(
                    f"{type(self).__name__}: expected the rows of all nodes in one tensor, got a "
                    f"{type(x).__name__}. In a graph of several types it holds the nodes of all "
                    "types, as view.inputs() does; a HeteroConv runs a layer on each relation."
                )
            if isinstance(x, Tensor):
                refuse_mixed_precision(type(self).__name__, x.dtype, x.device.type)
        named = {name: float_rows(x) for name, x in kwargs.items()}
        return super().__call__(*map(float_rows, args), **named)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Raise a ConfigError: exchanges between workers cannot be compiled."""
        raise ConfigError(
            f"{type(self).__name__}.compile: expected no torch.compile, since exchanges between "
            "workers cannot be compiled. Leave it out; graph layers compile their kernels "
            "themselves."
        )

    def _binds(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether `forward` can be called with some arguments."""
        try:
            inspect.signature(self.forward).bind(*args, **kwargs)
        except TypeError:
            return False
        return True

    def _refuse_arguments(self, view: Any, number: int) -> None:
        name = type(self).__name__
        is_layer = self.takes is LayerView
        expected = f"{name}(view[k], h)" if is_layer else f"{name}(view, x)"
        if isinstance(view, View | LayerView) and isinstance(view, self.takes):
            got = counted(number, "argument")
        elif isinstance(view, View):
            got = "a view of all layers"
        elif isinstance(view, LayerView):
            got = "view[k], which is for one layer"
        else:
            got = f"a {type(view).__name__} first"
        raise ConfigError(
            f"{name}: expected a call as {expected}, got {got}. The view holds the edges: "
            "view = gt.tgar.View(shard), x = view.inputs()."
        )


def refuse_compiled(module: nn.Module, where: str) -> None:
    """Raise a ConfigError if a module is one that `torch.compile` has returned or changed."""
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None):
        raise ConfigError(
            f"{where}: expected a model without torch.compile, got a compiled "
            f"{type(getattr(module, '_orig_mod', module)).__name__}: exchanges between workers "
            "cannot be compiled. Leave it out; graph layers compile their kernels themselves."
        )
