"""A `gather` may be any function of one edge, and nothing else."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.errors import ConfigError, TraceError
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View, keep
from tests.graphs import CORNER_GRAPHS, to_graph
from tests.tgar.layers import Written, written

Gather = Callable[..., Any]


@pytest.fixture(scope="module")
def shard() -> Shard:
    return gt.open_shard(to_graph(CORNER_GRAPHS["random"], dtype=np.float64))


def run(layer: nn.Module, shard: Shard, dtype: torch.dtype | None = None) -> Tensor:
    view = View(shard)
    out: Tensor = layer(view[0], view.inputs(dtype))
    return out


def eager(layer: Written, shard: Shard, dtype: torch.dtype | None = None) -> Tensor:
    """Evaluate gather once over all edges, without tracing, and sum."""
    view = View(shard)
    fields = layer.transform(view.inputs(dtype))
    topology = shard.topology
    row_E = torch.repeat_interleave(torch.from_numpy(np.diff(topology.indptr)))
    src = {name: f[topology.src.long()] for name, f in fields.items()}
    dst = {name: f[row_E] for name, f in fields.items()}
    message: Tensor = layer._gather(layer, src, dst, shard.edge_columns)
    total = message.new_zeros((shard.num_masters, *message.shape[1:]))
    return total.index_add(0, row_E, message)


def named_tuple(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    best = src["k"].max(dim=-1)
    return best.values * best.indices


def condition(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    return torch.where(src["h"] > dst["h"], src["h"], layer.w * 2)


def chunks(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    first, second = (src["k"] + dst["k"]).chunk(2, dim=1)
    return (first * second).squeeze(1)


def constants(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    scale = torch.arange(3, dtype=src["h"].dtype) * torch.tensor([1.0, 2.0, 3.0])
    scale[0] = 5.0  # in place on a constant
    return src["h"] * scale


ACCEPTED: dict[str, Gather] = {
    "field": lambda s, src, dst, edge: src["h"],
    "destination": lambda s, src, dst, edge: dst["h"],
    "edge_column": lambda s, src, dst, edge: edge["attr"],
    "operators": lambda s, src, dst, edge: (-src["h"] + 2 * dst["h"] - 1) / (dst["h"] ** 2 + 3),
    "reflected": lambda s, src, dst, edge: 1 / (2 - torch.tanh(src["h"])) + (3 - dst["h"]),
    "methods": lambda s, src, dst, edge: src["h"].sigmoid().mul(dst["h"].tanh()).clamp(min=-0.5),
    "functional": lambda s, src, dst, edge: F.leaky_relu(src["h"] + dst["h"], 0.2),
    "normalize": lambda s, src, dst, edge: F.normalize(src["h"] * dst["h"], dim=-1),
    "softmax_in_a_row": lambda s, src, dst, edge: (src["h"] + dst["h"]).softmax(-1),
    "layer_norm": lambda s, src, dst, edge: F.layer_norm(src["h"] + dst["h"], (3,), weight=s.w),
    "linear": lambda s, src, dst, edge: s.lin(src["h"] * dst["h"]),
    "linear_of_edge": lambda s, src, dst, edge: F.linear(edge["attr"], s.table[:, :2]),
    "matmul": lambda s, src, dst, edge: (src["h"] + dst["h"]) @ s.lin.weight.T,
    "cat": lambda s, src, dst, edge: torch.cat([src["h"], dst["h"], edge["attr"]], dim=-1),
    "stack": lambda s, src, dst, edge: torch.stack((src["h"], dst["h"]), dim=1),
    "stack_of_named_tuple": lambda s, src, dst, edge: torch.stack(
        torch.aminmax(src["h"] * dst["h"], dim=-1), -1
    ),
    "einsum": lambda s, src, dst, edge: torch.einsum("ekc,ec,c->ek", src["k"], dst["h"], s.w),
    "index_by_none": lambda s, src, dst, edge: src["h"][:, None] * edge["attr"][:, :, None],
    "slices": lambda s, src, dst, edge: src["h"][..., 1:] * dst["k"][:, 0, :2],
    "view": lambda s, src, dst, edge: (src["h"] * dst["h"]).view(-1, 3, 1),
    "flatten_from_1": lambda s, src, dst, edge: (src["k"] * dst["k"]).flatten(1),
    "chunk": chunks,
    "unbind_heads": lambda s, src, dst, edge: src["k"].unbind(1)[0] * dst["h"],
    "property_mT": lambda s, src, dst, edge: (src["k"].mT @ dst["k"]).sum(-1),
    "property_T_of_parameter": lambda s, src, dst, edge: src["h"] @ s.lin.weight.T,
    "max_values": named_tuple,
    "where": condition,
    "comparison": lambda s, src, dst, edge: (src["h"] > dst["h"]).to(src["h"].dtype),
    "parameter_by_type": lambda s, src, dst, edge: src["h"] * s.table[edge["type"]],
    "gather_by_type": lambda s, src, dst, edge: src["h"].gather(1, edge["type"][:, None] % 3),
    "buffer": lambda s, src, dst, edge: src["h"] * s.buffer,
    "constants": constants,
    "ones_like": lambda s, src, dst, edge: torch.ones_like(src["h"][:, :1]),
    "last_shape": lambda s, src, dst, edge: src["h"] / src["h"].shape[-1],
    "detach": lambda s, src, dst, edge: src["h"].detach() * dst["h"],
    "parameters_alone": lambda s, src, dst, edge: src["h"] * (s.w.softmax(0) + s.buffer).sum(),
    "out_of_place_add": lambda s, src, dst, edge: torch.add(src["h"], dst["h"], alpha=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_gather_same_as_eager(name: str, shard: Shard) -> None:
    layer = written(ACCEPTED[name])
    got, want = run(layer, shard), eager(layer, shard)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if want.requires_grad:
        parameters = [p for p in layer.parameters() if p.requires_grad]
        mine, theirs = (
            torch.autograd.grad(out.square().sum(), parameters, allow_unused=True)
            for out in (got, want)
        )
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(
                torch.zeros(()) if a is None else a,
                torch.zeros_like(torch.zeros(()) if a is None else a) if b is None else b,
                rtol=1e-10,
                atol=1e-10,
                check_dtype=False,
            )


def in_place(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    h = src["h"] + dst["h"]
    h += 1
    return h


def set_item(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    h = src["h"] + dst["h"]
    h[:, 0] = 0
    return h


def branch(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    return src["h"] if src["h"].sum() > 0 else dst["h"]


def branch_on_parameter(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    return src["h"] if layer.w[0] > 0 else dst["h"]


def counter(layer: Any, src: Any, dst: Any, edge: Any) -> Tensor:
    layer.calls = getattr(layer, "calls", 0) + 1
    return src["h"] * layer.calls


def loop(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    return torch.stack([row * 2 for row in src["h"]])


def scripted(layer: Written, src: Any, dst: Any, edge: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated in torch
        function = torch.jit.script(_twice)
    return function(src["h"])  # type: ignore[no-any-return]


def _twice(x: Tensor) -> Tensor:
    return x * 2


_elsewhere = torch.ones(3, dtype=torch.float64)
_drawn = "draws random numbers that depend on the worker"
_one_edge = "the value of one edge depends on other edges"
_rows = "expected one row per edge|depends on the number of edges|does not run on 7"

REFUSED: dict[str, tuple[Gather, str]] = {
    "softmax_over_edges": (lambda s, src, dst, edge: src["h"].softmax(0), _one_edge),
    "cumsum_over_edges": (lambda s, src, dst, edge: src["h"].cumsum(0), _one_edge),
    "flip_of_edges": (lambda s, src, dst, edge: src["h"].flip(0), _one_edge),
    "sort_of_edges": (lambda s, src, dst, edge: src["h"].sort(0).values, _one_edge),
    "roll_of_edges": (lambda s, src, dst, edge: src["h"].roll(1, 0), _one_edge),
    "mean_over_edges": (lambda s, src, dst, edge: src["h"] - src["h"].mean(0), _one_edge),
    "norm_over_edges": (lambda s, src, dst, edge: F.normalize(src["h"], dim=0), _one_edge),
    "first_edge": (lambda s, src, dst, edge: src["h"] - src["h"][0], _one_edge),
    "sum_over_edges": (lambda s, src, dst, edge: src["h"].sum(0), _rows),
    "flatten": (lambda s, src, dst, edge: src["h"].flatten(), _rows),
    "total": (lambda s, src, dst, edge: src["h"].sum(), _rows),
    "number_of_edges": (lambda s, src, dst, edge: src["h"] * src["h"].shape[0], "other values"),
    "number_of_edges_in_a_view": (
        lambda s, src, dst, edge: src["h"].view(src["h"].shape[0] * 3, 1), _rows,
    ),
    "size_of_edges": (lambda s, src, dst, edge: src["h"] * src["h"].size(0), "other values"),
    "len_of_edges": (lambda s, src, dst, edge: src["h"] * len(src["h"]), r"__len__\(\) reads"),
    "rows_made_of_nothing": (
        lambda s, src, dst, edge: torch.ones(src["h"].shape[0], 1),
        r"7 of them give shape \(7, 1\), or \(5, 1\)",
    ),
    "selection": (lambda s, src, dst, edge: src["h"][src["h"][:, 0] > 0], _rows),
    "loop_over_edges": (loop, "depends on the number of edges"),
    "functional_batch_norm": (
        lambda s, src, dst, edge: F.batch_norm(src["h"], None, None, training=True),
        "graphtheta.nn.BatchNorm",
    ),
    "dropout": (lambda s, src, dst, edge: F.dropout(src["h"], 0.5), _drawn),
    "dropout_module": (lambda s, src, dst, edge: nn.Dropout(0.5)(src["h"]), _drawn),
    "alpha_dropout": (lambda s, src, dst, edge: F.alpha_dropout(src["h"], 0.5, True), _drawn),
    "rand": (lambda s, src, dst, edge: src["h"] * torch.rand(3), _drawn),
    "rand_like": (lambda s, src, dst, edge: src["h"] * torch.rand_like(src["h"]), _drawn),
    "randn": (lambda s, src, dst, edge: src["h"] + torch.randn(()), _drawn),
    "randint": (lambda s, src, dst, edge: src["h"] + torch.randint(3, ()), _drawn),
    "bernoulli": (lambda s, src, dst, edge: torch.bernoulli(src["h"].sigmoid()), _drawn),
    "normal_": (lambda s, src, dst, edge: src["h"] + torch.empty(3).normal_(), _drawn),
    "gumbel": (lambda s, src, dst, edge: F.gumbel_softmax(src["h"], dim=-1), _drawn),
    "numpy_random": (
        lambda s, src, dst, edge: src["h"] * float(np.random.default_rng().random()),
        "other values",
    ),
    "state": (counter, "other values"),
    "script": (scripted, "computed elsewhere"),
    "in_place_operator": (in_place, "in place"),
    "in_place_method": (lambda s, src, dst, edge: src["h"].mul_(2), "in place"),
    "in_place_set": (set_item, "in place"),
    "in_place_copy": (lambda s, src, dst, edge: torch.empty(3).copy_(s.w) * src["h"], "in place"),
    "in_place_out": (
        lambda s, src, dst, edge: torch.exp(src["h"], out=torch.empty_like(src["h"])), "in place",
    ),
    "in_place_relu": (lambda s, src, dst, edge: F.relu(src["h"], inplace=True), "in place"),
    "in_place_relu_by_position": (lambda s, src, dst, edge: F.relu(src["h"], True), "in place"),
    "in_place_module": (lambda s, src, dst, edge: nn.ReLU(True)(src["h"]), "in place"),
    "in_place_through_data": (lambda s, src, dst, edge: src["h"].data.mul_(2), "in place"),
    "item": (lambda s, src, dst, edge: src["h"] * dst["h"][0, 0].item(), r"item\(\) reads"),
    "float": (lambda s, src, dst, edge: src["h"] * float(dst["h"][0, 0]), r"__float__\(\) reads"),
    "float_of_parameter": (lambda s, src, dst, edge: src["h"] * float(s.w[0]), "reads values"),
    "tolist": (lambda s, src, dst, edge: src["h"] * dst["h"].tolist()[0][0], r"tolist\(\) reads"),
    "numpy": (lambda s, src, dst, edge: src["h"].detach().numpy(), r"numpy\(\) reads"),
    "branch": (branch, r"__bool__\(\) reads"),
    "branch_on_parameter": (branch_on_parameter, r"__bool__\(\) reads"),
    "equal": (
        lambda s, src, dst, edge: src["h"] * torch.equal(src["h"], dst["h"]), r"equal\(\) reads",
    ),
    "allclose": (
        lambda s, src, dst, edge: src["h"] * torch.allclose(src["h"], dst["h"]), "reads values",
    ),
    "unknown_field": (
        lambda s, src, dst, edge: src["x"], r"src has no 'x'; it has \['h', 'k'\]. Return it from",
    ),
    "unknown_field_of_dst": (lambda s, src, dst, edge: dst["x"] + src["h"], "dst has no 'x'"),
    "unknown_edge_column": (
        lambda s, src, dst, edge: src["h"] * edge["weight"],
        r"edge has no 'weight'; it has \['attr', 'type'\]. Partition the graph with",
    ),
    "not_a_tensor": (lambda s, src, dst, edge: 1.0, "needs one message per edge, got float"),
    "a_pair": (lambda s, src, dst, edge: (src["h"], dst["h"]), "needs one message .* tuple of 2"),
    "a_list": (lambda s, src, dst, edge: [src["h"]], "needs one message"),
    "a_parameter": (lambda s, src, dst, edge: s.w, _rows),
    "parameter_of_so_many_rows": (lambda s, src, dst, edge: s.table, _rows),
    "tensor_of_the_module": (lambda s, src, dst, edge: src["h"] * _elsewhere, "computed elsewhere"),
    "keep_out_of_range": (lambda s, src, dst, edge: src["h"] * keep(1.0), r"p must be in \[0, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_gather_raises_trace_error(name: str, shard: Shard) -> None:
    gather, message = REFUSED[name]
    with pytest.raises(TraceError, match=message) as caught:
        run(written(gather), shard)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith((".", ")."))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda s, src, dst, edge: src["h"], r"needs \(score, message\) per edge, got Tensor of 1"),
        (lambda s, src, dst, edge: (src["h"], dst["h"], dst["h"]), "tuple of 3"),
        (lambda s, src, dst, edge: (src["h"].sum(), src["h"]), "expected one row per edge"),
        (lambda s, src, dst, edge: (1.0, src["h"]), r"\(score, message\)"),
    ],
)
def test_scored_gather_raises_trace_error(returned: Gather, message: str, shard: Shard) -> None:
    with pytest.raises(TraceError, match=message):
        run(written(returned, aggregator="softmax"), shard)


def capture(layer: Any, h: Tensor) -> dict[str, Tensor]:
    layer.captured = layer.lin(h).mean(0)
    return {"h": h}


def capture_without_grad(layer: Any, h: Tensor) -> dict[str, Tensor]:
    layer.captured = h.mean(0)  # inputs need no gradient; the next batch would get these values
    return {"h": h}


@pytest.mark.parametrize("transform", [capture, capture_without_grad])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gather_raises_trace_error_when_it_captures(
    transform: Callable[..., Any], mode: Callable[[], Any], shard: Shard
) -> None:
    layer = written(lambda s, src, dst, edge: src["h"] * s.captured, transform=transform)
    with mode(), pytest.raises(TraceError, match=r"computed elsewhere.* return it from transform"):
        run(layer, shard)


def test_trace_error_is_not_lost_in_an_operator(shard: Shard) -> None:
    # torch's operators turn a TypeError into "unsupported operand".
    with pytest.raises(TraceError, match="computed elsewhere"):
        run(written(lambda s, src, dst, edge: _elsewhere * src["h"]), shard)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stage", ["transform", "apply_node"])
def test_random_numbers_outside_gather_raise_trace_error(
    stage: str, training: bool, shard: Shard
) -> None:
    def draw(layer: Any, *args: Any) -> Any:
        x = F.dropout(args[-1], 0.5)
        return {"h": x} if stage == "transform" else x

    options: dict[str, Any] = {stage: draw}
    layer = written(ACCEPTED["field"], **options).train(training)
    for _ in range(2):  # also after the first failure
        with pytest.raises(TraceError, match=r"graphtheta.nn.Dropout for nodes"):
            run(layer, shard)


def test_batch_norm_of_torch_outside_gather_raises_trace_error(shard: Shard) -> None:
    norm = nn.BatchNorm1d(3, dtype=torch.float64)
    layer = written(ACCEPTED["field"], apply_node=lambda s, n, m: norm(m))
    with pytest.raises(TraceError, match="statistics from one worker's nodes"):
        run(layer, shard)
    norm.eval()  # running statistics are a function of one node
    run(layer, shard)


def test_batch_norm_of_torch_in_gather_raises_trace_error(shard: Shard) -> None:
    layer = written(lambda s, src, dst, edge: s.norm(src["h"]))
    layer.norm = nn.BatchNorm1d(3, dtype=torch.float64)
    with pytest.raises(TraceError, match=r"batch norm goes between layers, as graphtheta.nn"):
        run(layer, shard)


def test_transform_raises_config_error_when_rows_are_missing(shard: Shard) -> None:
    for transform, got in (
        (lambda s, h: h, "got Tensor"),
        (lambda s, h: {"h": h[1:]}, r"got \{'h': \(39, 3\)\}"),
        (lambda s, h: {"h": h.sum()}, r"got \{'h': \(\)\}"),
        (lambda s, h: {"h": 1}, r"got \{'h': 'int'\}"),
    ):
        with pytest.raises(ConfigError, match=f"dict of tensors with one row per node.*{got}"):
            run(written(ACCEPTED["field"], transform=transform), shard)


def test_keep_raises_trace_error_outside_of_gather(shard: Shard) -> None:
    run(written(lambda s, src, dst, edge: src["h"] * keep(0.5, 3)), shard)
    with pytest.raises(TraceError, match=r"inside gather only. Use graphtheta.nn.Dropout"):
        keep(0.5)


uses_everything: Gather = lambda s, src, dst, edge: (  # noqa: E731
    s.lin(src["h"] * s.w) * s.buffer + dst["h"] * s.table[edge["type"]]
)


def assert_still_eager(layer: Written, shard: Shard, dtype: torch.dtype | None = None) -> None:
    torch.testing.assert_close(run(layer, shard, dtype), eager(layer, shard, dtype))


def test_traced_layer_follows_its_parameters(shard: Shard) -> None:
    layer = written(uses_everything)
    before = run(layer, shard)
    with torch.no_grad():
        layer.w.mul_(2)
    assert_still_eager(layer, shard)
    layer.lin = nn.Linear(3, 3, dtype=torch.float64)
    layer.table = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    layer.buffer = torch.randn(3, dtype=torch.float64)
    assert_still_eager(layer, shard)
    layer.load_state_dict(written(uses_everything).state_dict())
    torch.testing.assert_close(run(layer, shard), before)
    layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()}, assign=True)
    assert_still_eager(layer, shard)


def test_traced_layer_can_be_copied(shard: Shard) -> None:
    layer = written(lambda s, src, dst, edge: uses_everything(s, src, dst, edge) @ s.lin.weight.T)
    want = run(layer, shard)
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(run(twin, shard), want)
    with torch.no_grad():
        layer.w.zero_()
    torch.testing.assert_close(run(twin, shard), want)  # it has its own parameters
    twin.w.grad = None
    run(twin, shard).sum().backward()
    assert twin.w.grad is not None
    assert layer.w.grad is None


def test_traced_layer_can_change_type(shard: Shard) -> None:
    layer = written(uses_everything, dtype=torch.float32)
    assert run(layer, shard, torch.float32).dtype == torch.float32
    layer.double()
    assert run(layer, shard).dtype == torch.float64
    assert_still_eager(layer, shard)
    layer.float()
    assert_still_eager(layer, shard, torch.float32)


def test_tracing_happens_once(shard: Shard) -> None:
    calls = []

    def gather(s: Any, src: Any, dst: Any, edge: Any) -> Tensor:
        calls.append(src)
        return src["h"]  # type: ignore[no-any-return]

    layer = written(gather)
    for _ in range(3):
        run(layer, shard)
    assert len(calls) == 2  # recorded, then tested
    layer.eval()
    run(layer, shard)
    assert len(calls) == 4


def test_layer_traced_without_grad_trains(shard: Shard) -> None:
    for mode in (torch.no_grad, torch.inference_mode):
        layer = written(lambda s, src, dst, edge: src["h"] * s.w * torch.tensor([1.0, 2.0, 3.0]))
        with mode():
            run(layer, shard)
        run(layer, shard).sum().backward()
        assert layer.w.grad is not None


def test_masks_of_two_keeps_differ(shard: Shard) -> None:
    layer = written(
        lambda s, src, dst, edge: torch.cat(
            [src["h"] * 0 + 1, keep(0.5, 3), keep(0.5, 3), keep(0.3).unsqueeze(-1)], -1
        )
    )
    out = run(layer, shard)
    degree = out[:, 0]
    assert not torch.equal(out[:, 3:6], out[:, 6:9])
    assert (out[:, 3:6] <= 2 * degree[:, None]).all()
    layer.eval()
    assert (run(layer, shard)[:, 3:] == degree[:, None]).all()
