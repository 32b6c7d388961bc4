"""Explaining a layer: what became of its `gather`, for a person who wants to write a fast one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphtheta.tgar.compiler import NotLowered, Program
from graphtheta.tgar.compiler.ir.terms import Term, walk
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS
from graphtheta.tgar.expression import Expression, Leaf, Origin, Ref

__all__ = ["Explanation", "explained"]


@dataclass(frozen=True)
class Explanation:
    """What runs where.

    Attributes:
        layer: Its class.
        aggregator: Its Sum stage.
        self_loops: Whether it adds self-loops.
        executor: "fused" or "chunked".
        reason: Why it is not fused; empty where it is.
        hoisted: What torch computes once a node or once a step, by endpoint.
        folded: What was multiplied out so that an edge computes less.
        commuted: What edges add up for a row to multiply once, by kernel.
        fused: What an edge computes, by name: score and message.
        saved: What is kept from one kernel to another, an edge.
        bytes_per_edge: Moved by each kernel, and by the chunked executor not said.
    """

    layer: str
    aggregator: str
    self_loops: bool
    executor: str
    reason: str = ""
    hoisted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folded: tuple[str, ...] = ()
    commuted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)
    saved: Mapping[str, str] = field(default_factory=dict)
    bytes_per_edge: Mapping[str, int] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Return what a table shows: (what, of what)."""
        loops = ", self-loops" if self.self_loops else ""
        why = f": {self.reason}" if self.reason else ""
        rows = [("executor", f"{self.executor}{why}"), ("sum", f"{self.aggregator}{loops}")]
        rows += [(f"hoisted, {end}", "; ".join(texts)) for end, texts in self.hoisted.items()]
        rows += [("folded", text) for text in self.folded]
        rows += [(f"commuted, {name}", "; ".join(texts)) for name, texts in self.commuted.items()]
        rows += [(f"fused, {name}", text) for name, text in self.fused.items()]
        rows += [(f"saved, {when}", text) for when, text in self.saved.items()]
        rows += [("bytes an edge, " + name, str(n)) for name, n in self.bytes_per_edge.items()]
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(what) for what, _ in rows)
        return "\n".join([self.layer, *(f"  {what:<{width}}  {text}" for what, text in rows)])


def explained(
    layer: str,
    aggregator: str,
    self_loops: bool,
    expression: Expression,
    program: Program | NotLowered,
) -> Explanation:
    """Describe a traced gather and its kernels.

    Args:
        layer: Class of the layer.
        aggregator: Its Sum stage.
        self_loops: Whether it adds self-loops.
        expression: The traced gather.
        program: Its kernels, or why there are none.
    """
    ends = {
        "source": expression.sources,
        "destination": expression.destinations,
        "parameters": expression.parameters,
    }
    hoisted = {
        end: tuple(_text(expression, i) for i in indices)
        for end, indices in ends.items()
        if indices
    }
    if isinstance(program, NotLowered):
        return Explanation(layer, aggregator, self_loops, "chunked", str(program), hoisted)
    names = {
        f"{kind}{n}": _text(expression, i)
        for kind, indices in (
            ("source", expression.sources),
            ("destination", expression.destinations),
            ("parameter", expression.parameters),
            ("column", [i for i, _ in expression.edge_columns]),
        )
        for n, i in enumerate(indices)
    }
    for name, same in program.lowered.layouts.items():
        names[name] = names.get(same, same)
    for name in program.lowered.parameters:
        names.setdefault(name, f"W{name.removeprefix('parameter')}")

    def said(term: Term) -> str:
        return _told(term, names, program.names)

    outputs = ("score", "message") if program.score is not None else ("message",)
    forward = program.forward(save_score=True, finish=True)
    leaves = [t for t in walk(program.lowered.outputs) if t.op == "leaf"]
    wanted = frozenset(t.leaf.name for t in leaves if t.kind == "float" and t.leaf.space != "edge")
    backward = program.backward(wanted, saved_score=True, finish=True, wide_positions=False)
    kernels = {
        "forward": forward,
        "backward over in-edges": backward.in_kernel,
        "backward over out-edges": backward.out_kernel,
    }
    commuted = {
        name: tuple(
            f"sum of {said(value)}, multiplied once a row" for value in kernel.moment_values
        )
        for name, kernel in kernels.items()
        if kernel is not None
    }
    saved = {}
    if program.score_size:
        saved["forward"] = f"score ({program.score_size} numbers an edge)"
    if backward.saved_size:
        texts = "; ".join(said(c) for c in backward.saved)
        saved["over in-edges"] = f"{backward.saved_size} numbers an edge: {texts}"
    return Explanation(
        layer,
        aggregator,
        self_loops,
        "fused",
        "",
        hoisted,
        tuple(_renamed(text, names) for text in program.lowered.folded),
        {name: moments for name, moments in commuted.items() if moments},
        dict(zip(outputs, map(said, program.lowered.outputs), strict=True)),
        saved,
        {name: kernel.bytes_per_edge() for name, kernel in kernels.items() if kernel is not None},
    )


def _told(term: Term, names: Mapping[str, str], words: Mapping[Term, str]) -> str:
    """Write a term as a person would; shapes are left out."""
    if term in words:
        return words[term]
    inputs = [_told(t, names, words) for t in term.inputs]
    if term.op == "leaf":
        return names.get(term.leaf.name, term.leaf.name)
    if term.op == "const":
        return f"{term.detail:g}"
    if term.op in ("reshape", "expand"):
        return inputs[0]
    operator = OPERATORS.get(term.op)
    if operator is not None and operator.symbol:
        return f"({inputs[0]} {operator.symbol} {inputs[1]})"
    if term.op == "contract":
        return f"({inputs[0]} @ {inputs[1]})"
    if term.op == "lookup":
        return f"{inputs[0]}[{inputs[1]}]"
    if term.op == "keep":
        return f"keep({term.detail[0]:g})"
    extra = [f"{term.detail:g}"] if operator is not None and operator.parameter else []
    return f"{term.op}({', '.join([*inputs, *extra])})"


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _text(expression: Expression, index: int) -> str:
    """Write a node of an expression as it stood in the code, about."""
    node = expression.nodes[index]
    if isinstance(node, Leaf):
        where = {Origin.SOURCE: "src.", Origin.DESTINATION: "dst.", Origin.EDGE: "edge."}
        return where.get(node.origin, "") + (node.name or "constant")
    name = getattr(node.function, "__name__", str(node.function)).strip("_")
    said = [
        _text(expression, a.index) if isinstance(a, Ref) else str(a)
        for a in (*node.args, *node.kwargs.values())
    ]
    return f"{name}({', '.join(said)})"
