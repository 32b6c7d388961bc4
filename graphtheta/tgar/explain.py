"""Explanations of how a layer runs its `gather`, for authors of fast layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from graphtheta.tgar.compiler import NotLowered, Program, RelationProgram
from graphtheta.tgar.compiler.ir.terms import Term, walk
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS
from graphtheta.tgar.expression import Expression, Leaf, Origin, Ref
from graphtheta.wording import counted

__all__ = ["Explanation", "explained"]


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a layer runs: what is computed per node, what per edge, and by which executor.

    Printed, it is a table; `graphtheta explain` shows the same one.

    Attributes:
        layer: Class of the layer.
        aggregator: Name of its Sum stage.
        self_loops: Whether it adds self-loops.
        executor: "fused" or "chunked".
        reason: Why it is not fused; empty if it is.
        hoisted: Expressions that torch computes once per node, by endpoint, or once per step.
        relations: How products by the matrix of an edge's relation are computed, and why.
        folded: Products of parameters that were computed in advance, so that an edge computes less.
        commuted: Sums over edges that are multiplied once per row, by kernel.
        fused: Expressions that are computed per edge, by name: score and message.
        saved: Values per edge that are kept from one kernel to another.
        bytes_per_edge: Bytes that each kernel moves per edge; empty for the chunked executor.
    """

    layer: str
    aggregator: str
    self_loops: bool
    executor: str
    reason: str = ""
    hoisted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    relations: str = ""
    folded: tuple[str, ...] = ()
    commuted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused: Mapping[str, str] = field(default_factory=dict)
    saved: Mapping[str, str] = field(default_factory=dict)
    bytes_per_edge: Mapping[str, int] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table: a name, and what it is."""
        loops = ", self-loops" if self.self_loops else ""
        why = f": {self.reason}" if self.reason else ""
        rows = [("executor", f"{self.executor}{why}"), ("sum", f"{self.aggregator}{loops}")]
        rows += [(f"hoisted, {name}", "; ".join(texts)) for name, texts in self.hoisted.items()]
        rows += [("relations", self.relations)] if self.relations else []
        rows += [("folded", text) for text in self.folded]
        rows += [(f"commuted, {name}", "; ".join(texts)) for name, texts in self.commuted.items()]
        rows += [(f"fused, {name}", text) for name, text in self.fused.items()]
        rows += [(f"saved, {name}", text) for name, text in self.saved.items()]
        rows += [(f"bytes per edge, {name}", str(n)) for name, n in self.bytes_per_edge.items()]
        return rows

    def __repr__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.layer, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        """Return the table as a notebook displays it."""
        cell = 'style="text-align: left"'
        rows = "".join(
            f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(text)}</td></tr>"
            for name, text in self.rows()
        )
        return f"<table><caption>{escape(self.layer)}</caption>{rows}</table>"


def explained(
    layer: str,
    aggregator: str,
    self_loops: bool,
    expression: Expression,
    program: Program | RelationProgram | NotLowered,
) -> Explanation:
    """Describe a traced gather and its kernels.

    Args:
        layer: Class of the layer.
        aggregator: Name of its Sum stage.
        self_loops: Whether it adds self-loops.
        expression: The traced gather.
        program: Its kernels, or the reason why it has none.
    """
    per_node = {
        "source": expression.sources,
        "destination": expression.destinations,
        "parameters": expression.parameters,
    }
    hoisted = {
        name: tuple(_text_of_node(expression, i) for i in indices)
        for name, indices in per_node.items()
        if indices
    }
    if isinstance(program, NotLowered):
        return Explanation(layer, aggregator, self_loops, "chunked", str(program), hoisted)
    names = {
        f"{kind}{n}": _text_of_node(expression, i)
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
    about = Explanation(
        layer,
        aggregator,
        self_loops,
        "fused",
        hoisted=hoisted,
        folded=tuple(_renamed(text, names) for text in program.lowered.folded),
    )
    if isinstance(program, Program):
        return _with_kernels(about, program, names, "")
    about = replace(about, relations=program.choice)
    products = [_text_of_term(p.term, names, {}) for p in program.products]
    if not program.sums_first:
        first = program.lowered.num_sources
        names |= {f"source{first + n}": text for n, text in enumerate(products)}
        return _with_kernels(about, program.hoisted, names, "")
    assert program.sums is not None
    about = _with_kernels(about, program.sums[0], names, " to pairs")
    return _with_kernels(about, program.sums[1], names | {"source0": products[0]}, " from pairs")


def _with_kernels(
    about: Explanation, program: Program, names: Mapping[str, str], suffix: str
) -> Explanation:
    """Add the kernels of a program to an explanation.

    Args:
        about: The explanation.
        program: The kernels.
        names: Names of leaves.
        suffix: Added to the names of kernels and of what they compute.
    """

    def text_of(term: Term) -> str:
        return _text_of_term(term, names, program.names)

    outputs = ("score", "message") if program.score is not None else ("message",)
    forward = program.forward(save_score=True, finish=True)
    leaves = [t for t in walk(program.lowered.outputs) if t.op == "leaf"]
    wanted = frozenset(t.leaf.name for t in leaves if t.kind == "float" and t.leaf.space != "edge")
    backward = program.backward(wanted, saved_score=True, finish=True, wide_positions=False)
    of_kernels = {
        "forward": forward,
        "backward over in-edges": backward.in_kernel,
        "backward over out-edges": backward.out_kernel,
    }
    kernels = {name + suffix: kernel for name, kernel in of_kernels.items() if kernel is not None}
    commuted = {
        name: tuple(
            f"sum of {text_of(value)}, multiplied once per row" for value in kernel.moment_values
        )
        for name, kernel in kernels.items()
    }
    saved = {}
    if program.score_size:
        saved["forward"] = f"score ({counted(program.score_size, 'number')} per edge)"
    if backward.saved_size:
        texts = "; ".join(text_of(c) for c in backward.saved)
        saved[f"over in-edges{suffix}"] = (
            f"{counted(backward.saved_size, 'number')} per edge: {texts}"
        )
    values = map(text_of, program.lowered.outputs)
    fused = dict(zip((name + suffix for name in outputs), values, strict=True))
    size = {name: kernel.bytes_per_edge() for name, kernel in kernels.items()}
    return replace(
        about,
        commuted={**about.commuted, **{name: texts for name, texts in commuted.items() if texts}},
        fused={**about.fused, **fused},
        saved={**about.saved, **saved},
        bytes_per_edge={**about.bytes_per_edge, **size},
    )


def _text_of_term(term: Term, leaf_names: Mapping[str, str], term_names: Mapping[Term, str]) -> str:
    """Return a term as a formula, without shapes.

    Args:
        term: The term.
        leaf_names: Names of leaves to show instead of the compiler's.
        term_names: Terms that have a name of their own.
    """
    if term in term_names:
        return term_names[term]
    inputs = [_text_of_term(t, leaf_names, term_names) for t in term.inputs]
    if term.op == "leaf":
        return leaf_names.get(term.leaf.name, term.leaf.name)
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
    if term.op == "relate":
        return f"({inputs[2]} @ {inputs[0]}[{inputs[1]}])"
    if term.op == "keep":
        return f"keep({term.detail[0]:g})"
    extra = [f"{term.detail:g}"] if operator is not None and operator.parameter else []
    return f"{term.op}({', '.join([*inputs, *extra])})"


def _renamed(text: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _text_of_node(expression: Expression, index: int) -> str:
    """Return a node of an expression roughly as its source code."""
    node = expression.nodes[index]
    if isinstance(node, Leaf):
        where = {Origin.SOURCE: "src.", Origin.DESTINATION: "dst.", Origin.EDGE: "edge."}
        return where.get(node.origin, "") + (node.name or "constant")
    name = getattr(node.function, "__name__", str(node.function)).strip("_")

    def text_of(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text_of, value))}]"
        return _text_of_node(expression, value.index) if isinstance(value, Ref) else str(value)

    args = map(text_of, (*node.args, *node.kwargs.values()))
    return f"{name}({', '.join(args)})"
