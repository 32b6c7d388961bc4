"""Tracing of `gather`: every torch call is recorded on a few rows, and the record is then tested.

The test replays the record on other rows and on a selection of them with repeats. Code that looks
across edges (a softmax over rows, batch norm, the number of rows), draws random numbers of its own,
or uses a tensor that was not recorded gives different values, and is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graphtheta.errors import TraceError
from graphtheta.tgar.expression import Expression, Keep, Leaf, Operation, Origin, Ref, map_structure
from graphtheta.tgar.worker_independent import name_of, refuse_worker_dependent

__all__ = ["Gather", "keep", "trace"]

Gather = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]], Any]

_TRACE_ROWS, _TEST_ROWS = 5, 7  # primes, so that a row count in a shape is noticed
_SELECTION = (4, 1, 6, 1, 3)  # unordered, with a repeat, and not all rows

_READS_VALUE = {
    "__bool__", "__float__", "__int__", "__index__", "__len__", "__iter__", "__contains__",
    "item", "tolist", "numpy", "__array__", "nonzero", "unique", "masked_select", "equal",
    "allclose", "is_nonzero",
}  # fmt: skip

_OUT_OF_RANGE = ("is out of bounds for dimension", "out of range in self")  # torch's words

_local = threading.local()


class _Recorder(TorchFunctionMode):
    """Context that records torch calls on tensors that depend on an endpoint or a parameter."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        named = [*layer.named_parameters(), *layer.named_buffers()]
        self._parameter_names = {id(t): name for name, t in named}
        self.nodes: list[Leaf | Operation] = []
        self._index: dict[int, int] = {}
        self._constants: set[int] = set()  # made in gather, from nothing that is recorded
        self._alive: list[Tensor] = []  # keeps ids unique

    def add(self, node: Leaf | Operation, value: Tensor) -> int:
        self.nodes.append(node)
        self._index[id(value)] = len(self.nodes) - 1
        self._alive.append(value)
        return len(self.nodes) - 1

    def has(self, value: Tensor) -> bool:
        return id(value) in self._index

    def index_of(self, value: Tensor) -> int:
        """Return the node of a tensor, added as a parameter or a constant if it is new."""
        if self.has(value):
            return self._index[id(value)]
        name = self._parameter_names.get(id(value))
        if name is not None:
            return self.add(Leaf(Origin.NONE, name), value)
        if id(value) not in self._constants:
            raise TraceError(
                "gather: it uses a tensor computed elsewhere, whose present values would be kept. "
                "Compute it with torch inside gather, return it from transform, or make it a "
                "parameter or buffer of the layer."
            )
        return self.add(Leaf(Origin.NONE, "", constant=value), value)

    def _is_recorded(self, value: Tensor) -> bool:
        known = self.has(value) or id(value) in self._parameter_names
        return known or value.requires_grad

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, name_of(func)
        refuse_worker_dependent(name, kwargs)
        given: list[Tensor] = []
        map_structure((args, kwargs), lambda v: given.append(v) if isinstance(v, Tensor) else None)
        recorded = any(self._is_recorded(v) for v in given)
        if recorded and name in _READS_VALUE:
            raise TraceError(
                f"gather: {name}() reads values while gather is recorded, so the result would "
                "hold for these rows only. Use torch.where for a choice per edge."
            )
        if recorded:
            for value in given:
                self.index_of(value)  # raises for a tensor computed elsewhere
        versions = [v._version for v in given]
        result = func(*args, **kwargs)
        if recorded and versions != [v._version for v in given]:
            raise TraceError(
                f"gather: {name}() changes a tensor in place. Write the expression without it; "
                "batch norm goes between layers, as graphtheta.nn.BatchNorm."
            )
        outputs = result if isinstance(result, tuple | list) else (result,)
        if not recorded:
            made = [r for r in outputs if isinstance(r, Tensor)]
            self._constants.update(map(id, made))
            self._alive.extend(made)
            return result
        if not any(isinstance(r, Tensor) for r in outputs):
            return result
        if isinstance(result, Tensor):
            if any(result is v for v in given):
                return result
            self._record(func, args, kwargs, result)
            return result
        parent = self._record(func, args, kwargs, torch.empty(0))
        for position, part in enumerate(result):
            if isinstance(part, Tensor):
                origin = self.nodes[parent].origin
                get = Operation(origin, _take, (Ref(parent), position), {})
                self.add(get, part)
        return result

    def _record(self, func: Any, args: Any, kwargs: Any, value: Tensor) -> int:
        origin = Origin.NONE

        def refer(item: Any) -> Any:
            nonlocal origin
            if not isinstance(item, Tensor):
                return item
            index = self.index_of(item)
            origin |= self.nodes[index].origin
            return Ref(index)

        args, kwargs = map_structure((tuple(args), dict(kwargs)), refer)
        return self.add(Operation(origin, func, args, kwargs), value)


def _take(results: Any, position: int) -> Any:
    return results[position]


class _Reads(Mapping[str, Tensor]):
    """Mapping that `gather` gets as src, dst or edge, and that reports each name it reads."""

    def __init__(
        self,
        kind: str,
        values: Mapping[str, Tensor],
        on_read: Callable[[str, Tensor], None] | None = None,
    ) -> None:
        self._kind, self._values, self._on_read = kind, values, on_read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._values:
            raise TraceError(
                f"gather: {self._kind} has no '{name}'; it has {sorted(self._values)}. "
                + (
                    "Partition the graph with that edge column."
                    if self._kind == "edge"
                    else "Return it from transform."
                )
            )
        value = self._values[name]
        if self._on_read is not None:
            self._on_read(name, value)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def keep(p: float, heads: int | None = None) -> Tensor:
    """Return the dropout factor of each edge, inside `gather`: 0 with probability p, else 1/(1-p).

    It is drawn by (edge_key, head), so that it depends neither on the workers nor on the partition,
    and all ones when the layer is not training. A softmax layer multiplies its message by it, which
    drops the attention coefficient after normalisation.

    Args:
        p: Probability of dropping, in [0, 1).
        heads: Number of columns drawn per edge. If None, one scalar is drawn.

    Shape:
        Returns (edges,) or (edges, heads).

    Raises:
        TraceError: Outside of `gather`.
    """
    source = getattr(_local, "keeps", None)
    if source is None:
        raise TraceError("keep: it works inside gather only. Use graphtheta.nn.Dropout elsewhere.")
    if not 0 <= p < 1:
        raise TraceError(f"keep: p must be in [0, 1), got {p}.")
    value: Tensor = source(p, heads)
    return value


@contextmanager
def _keeps(source: Callable[[float, int | None], Tensor]) -> Iterator[None]:
    _local.keeps = source
    try:
        yield
    finally:
        _local.keeps = None


def trace(
    layer: nn.Module,
    gather: Gather,
    fields: Mapping[str, Tensor],
    edges: Mapping[str, Tensor],
    *,
    scored: bool,
) -> Expression:
    """Record `gather`, and test that it is a function of one edge.

    Args:
        layer: Layer whose parameters `gather` may read.
        gather: Called as gather(src, dst, edge).
        fields: Fields returned by `transform`; only dtypes, trailing shapes and device are used.
        edges: Edge columns, of which a few rows are used as samples.
        scored: Whether the aggregator takes (score, message).

    Returns:
        The expression, split by endpoint.

    Raises:
        TraceError: If gather reads a name that does not exist, works in place, looks across edges,
            draws random numbers of its own, or does not return one row per edge.
    """
    with torch.inference_mode(False):  # inference tensors have no version counter, nor gradients
        return _trace(layer, gather, _Samples(fields, edges), scored)


def _trace(layer: nn.Module, gather: Gather, samples: _Samples, scored: bool) -> Expression:
    recorder = _Recorder(layer)
    src, dst, edge = samples.rows(_TRACE_ROWS)
    keeps: list[Keep] = []

    def record(origin: Origin) -> Callable[[str, Tensor], None]:
        def on_read(name: str, value: Tensor) -> None:
            if not recorder.has(value):
                recorder.add(Leaf(origin, name), value)

        return on_read

    def symbolic_keep(p: float, heads: int | None) -> Tensor:
        spec = Keep(p, heads, len(keeps))
        keeps.append(spec)
        value = samples.keep(spec, _TRACE_ROWS)
        recorder.add(Leaf(Origin.EDGE, "keep", keep=spec), value)
        return value

    reads = (
        _Reads("src", src, record(Origin.SOURCE)),
        _Reads("dst", dst, record(Origin.DESTINATION)),
        _Reads("edge", edge, record(Origin.EDGE)),
    )
    try:
        with _keeps(symbolic_keep), recorder:
            returned = gather(*reads)
    except IndexError as error:
        if not any(text in str(error) for text in _OUT_OF_RANGE):
            raise
        raise TraceError(
            f"gather: {error}. A parameter that an edge column indexes needs a row for each value."
        ) from error
    outputs = _outputs(returned, scored, _TRACE_ROWS)
    expression = Expression(recorder.nodes, [recorder.index_of(t) for t in outputs])
    _test_replay(layer, gather, expression, samples, scored)
    return expression


def _outputs(returned: Any, scored: bool, rows: int) -> tuple[Tensor, ...]:
    wanted = "(score, message)" if scored else "one message"
    outputs = returned if isinstance(returned, tuple) else (returned,)
    if len(outputs) != (2 if scored else 1) or not all(isinstance(t, Tensor) for t in outputs):
        raise TraceError(
            f"gather: this aggregator needs {wanted} per edge, got {type(returned).__name__}"
            f" of {len(outputs)}. Return tensors."
        )
    for tensor in outputs:
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            raise TraceError(
                f"gather: expected one row per edge, got shape {tuple(tensor.shape)} for {rows} "
                "edges. Keep the leading dimension; reduce over the last ones only."
            )
    return outputs


class _Samples:
    """Random rows of the fields, and rows of the edge columns, to trace and test on."""

    def __init__(self, fields: Mapping[str, Tensor], edges: Mapping[str, Tensor]) -> None:
        self._fields, self._edges = fields, edges
        self._generator = np.random.default_rng(0)  # torch's own is refused while recording
        like = next((f for f in fields.values() if f.is_floating_point()), torch.empty(0))
        device = next((f.device for f in fields.values()), like.device)
        self._mask_options: dict[str, Any] = {"dtype": like.dtype, "device": device}

    def _like(self, column: Tensor, rows: int) -> Tensor:
        if column.is_floating_point():
            values = torch.from_numpy(self._generator.standard_normal((rows, *column.shape[1:])))
            return values.to(column.device, column.dtype)
        if column.shape[0] == 0:
            return column.new_zeros((rows, *column.shape[1:]))
        index = torch.from_numpy(self._generator.integers(column.shape[0], size=rows))
        return column.detach().index_select(0, index.to(column.device))

    def rows(self, rows: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        src = {name: self._like(f, rows) for name, f in self._fields.items()}
        dst = {name: self._like(f, rows) for name, f in self._fields.items()}
        return src, dst, {name: self._like(c, rows) for name, c in self._edges.items()}

    def keep(self, spec: Keep, rows: int) -> Tensor:
        shape = (rows,) if spec.heads is None else (rows, spec.heads)
        values = torch.from_numpy(self._generator.random(shape))
        return values.to(**self._mask_options)


def _test_replay(
    layer: nn.Module, gather: Gather, expression: Expression, samples: _Samples, scored: bool
) -> None:
    """Raise TraceError if replaying the expression on other rows gives other values."""
    src, dst, edge = samples.rows(_TEST_ROWS)
    masks = {i: samples.keep(spec, _TEST_ROWS) for i, spec in expression.keeps}
    drawn = iter(masks.values())
    with torch.no_grad():
        try:
            with _keeps(lambda p, heads: next(drawn)):
                eager = gather(_Reads("src", src), _Reads("dst", dst), _Reads("edge", edge))
            expected = _outputs(eager, scored, _TEST_ROWS)
            whole = _replay(layer, expression, src, dst, edge, masks)
        except TraceError:
            raise
        except Exception as error:
            raise TraceError(
                f"gather: what was recorded on {_TRACE_ROWS} edges does not run on {_TEST_ROWS} "
                f"({error}). Do not use the number of rows, nor tensors made outside."
            ) from error
        pick = torch.tensor(_SELECTION)

        def some(values: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
            return {k: v.index_select(0, pick.to(v.device)) for k, v in values.items()}

        try:
            selected = _replay(layer, expression, some(src), some(dst), some(edge), some(masks))
        except Exception as error:
            raise TraceError(f"gather: it depends on the number of edges ({error}).") from error
    for want, got, part in zip(expected, whole, selected, strict=True):
        if got.shape != want.shape:
            raise TraceError(
                f"gather: it depends on the number of edges: {_TEST_ROWS} of them give shape "
                f"{tuple(want.shape)}, or {tuple(got.shape)} as recorded on {_TRACE_ROWS}."
            )
        if not _close(got, want):
            raise TraceError(
                "gather: replaying what was recorded gives other values. It must draw no random "
                "numbers, keep no state, and use torch functions only."
            )
        if not _close(part, got.index_select(0, pick.to(got.device))):
            raise TraceError(
                "gather: the value of one edge depends on other edges. It must be a function of "
                "one edge; the aggregator sums over edges."
            )


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = 1e-10 if a.dtype == torch.float64 else 1e-4
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _replay(
    layer: nn.Module,
    expression: Expression,
    src: Mapping[str, Tensor],
    dst: Mapping[str, Tensor],
    edge: Mapping[str, Tensor],
    masks: Mapping[int, Tensor],
) -> tuple[Tensor, ...]:
    given = dict(masks)
    for indices, rows in (
        (expression.sources, src),
        (expression.destinations, dst),
        (expression.parameters, {}),
    ):
        given.update(zip(indices, expression.in_node_space(indices, layer, rows), strict=True))
    given.update({i: edge[name] for i, name in expression.edge_columns})
    return expression.on_edges(given)
