"""Every entry of the table of operators runs fused as it runs chunked; one entry adds another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphtheta.tgar.compiler.codegen import native
from graphtheta.tgar.compiler.ir.terms import Leaf, TermFactory
from graphtheta.tgar.compiler.lowering.rules import RULES, rule_of
from graphtheta.tgar.compiler.operators import vector_math as vm
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS, Operator, is_costly
from graphtheta.tgar.compiler.passes.differentiate import cotangents
from tests.tgar.both import GRAPH, assert_same, run_both
from tests.tgar.layers import written


def call(operator: Operator, s: Any, d: Any) -> Any:
    """Apply the torch function of an operator to values of both endpoints."""
    name = operator.spellings[0]
    function = getattr(torch, name, None) or getattr(F, name)
    if operator.kind == "arithmetic":  # from 1 to 2: in the domain of each
        x, y = 1.5 + 0.5 * torch.tanh(s["h"] - d["h"]), 1.5 + 0.5 * torch.sin(d["h"])
        return function(x) + function(x - 0.5 * y + 1) if operator.arity == 1 else function(x, y)
    operands = (s["h"], d["h"]) if operator.kind == "comparison" else (s["h"] > 0, d["h"] > s["h"])
    return torch.where(function(*operands[: operator.arity]), s["h"], 2 * d["h"])


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_same_as_chunked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(y: Any, s: Any, d: Any, e: Any) -> Any:
        return call(OPERATORS[name], s, d)

    assert_same(*run_both(monkeypatch, lambda: written(gather), GRAPH), 1e-11)


@pytest.mark.parametrize("name", OPERATORS)
def test_entry_is_complete(name: str) -> None:
    operator = OPERATORS[name]
    assert operator.name == name
    for spelled in (*operator.spellings, *operator.reflected.split()):
        assert rule_of(spelled) is not None
        assert spelled not in RULES
    assert callable(operator.emit)
    terms = TermFactory()
    kind: Any = "bool" if operator.kind == "logical" else "float"
    operands = [
        terms.leaf(Leaf("source", f"source{n}", "float64", 3), (3,), kind)
        for n in range(operator.arity)
    ]
    parameter = None if operator.parameter is None else operator.parameter[1]
    term = operator.apply(terms, *operands, parameter=parameter)
    assert is_costly(term) == operator.costly
    assert (term.kind == "float") == (operator.kind == "arithmetic")
    upstream = terms.leaf(Leaf("destination", "cotangent0", "float64", 3), (3,))
    gradients = cotangents(terms, [(term, upstream)], lambda leaf: leaf in operands)
    assert len(gradients) == (0 if operator.gradient is None else operator.arity)


def test_names_of_torch_belong_to_one_operator() -> None:
    names = [n for o in OPERATORS.values() for n in (*o.spellings, *o.reflected.split())]
    assert len(names) == len(set(names))


def test_one_entry_adds_an_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_ready", {})

    def gather(y: Any, s: Any, d: Any, e: Any) -> Any:
        return torch.atan(s["h"] * d["h"]) * s["h"], torch.atan(s["h"])

    def make() -> Any:
        return written(gather, aggregator="softmax")

    assert rule_of("atan") is None
    arctangent = Operator(
        "atan",
        gradient=lambda t, c, y, x: [t.div(c, t.add(1, t.mul(x, x)))],
        emit=vm.library("atan"),
        costly=True,
    )
    monkeypatch.setitem(OPERATORS, arctangent.name, arctangent)
    fused, chunked = run_both(monkeypatch, make, GRAPH)  # asserts that the first is fused
    assert_same(fused, chunked, 1e-11)
    assert fused.x_grad_NF.any()


def tables() -> tuple[str, str]:
    """Return the tables of supported operations as docs/kernels.md should show them."""

    def torch_of(operator: Operator) -> str:
        names = [operator.symbol.replace("|", "\\|"), *operator.spellings]
        names += operator.reflected.split()
        return ", ".join(f"`{name}`" for name in names if name and not name.startswith("__"))

    yes = {True: "yes", False: "no"}
    operators = [
        "| operator | in torch | differentiable | costly |",
        "|---|---|---|---|",
        *(
            f"| `{o.name}` | {torch_of(o)} | {yes[o.gradient is not None]} | {yes[o.costly]} |"
            for o in OPERATORS.values()
        ),
    ]
    names = sorted(name.strip("_") for name in RULES if name != "__matmul__" and name != "__pow__")
    rules = [", ".join(f"`{n}`" for n in names if n != "getitem") + ", and indexing with `[]`."]
    return "\n".join(operators), "\n".join(rules)


def test_documentation_lists_all_operations() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()
    for table in tables():
        assert table in page, f"docs/kernels.md: replace the table by this one:\n{table}"
