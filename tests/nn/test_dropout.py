from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.errors import ConfigError
from graphtheta.nn import Dropout, HeteroConv
from graphtheta.rng.philox import Purpose, keep_mask, step_key, stream_id
from graphtheta.tgar import LayerView, View, keep
from graphtheta.tgar.compiler import NotLowered
from tests.graphs import random_graph, to_graph
from tests.nn.steps import Seen, cotangent, run_layer
from tests.tgar.layers import written

GRAPH = to_graph(random_graph(30, 120), dtype=np.float64)


@pytest.mark.parametrize(("workers", "method"), [(1, "dbh"), (3, "node-hash"), (7, "dbh")])
def test_dropout_is_by_node_key(workers: int, method: str) -> None:
    run = run_layer(lambda: Dropout(0.4), GRAPH, workers, method)
    stream = stream_id(Purpose.NODE_DROPOUT, layer=0, call=0)
    kept = keep_mask(np.arange(30), 3, 0.4, step_key(3, 5), stream)
    np.testing.assert_allclose(run.out_NO, GRAPH.features * kept / 0.6, rtol=1e-12)
    np.testing.assert_allclose(run.x_grad_NF, cotangent((30, 3)) * kept / 0.6, rtol=1e-12)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = Dropout(0.5)

    def forward(self, view: LayerView, x: Tensor) -> Tensor:
        ones = torch.ones_like(x)
        return torch.cat([self.dropout(view, ones), self.dropout(view, ones)], 1) * x.sum()


def test_dropout_differs_by_call_layer_and_step() -> None:
    shard = gt.open_shard(GRAPH)
    dropout, ones = Dropout(0.5), torch.ones(30, 8)

    def draw(step: int, layer: int, seed: int = 0) -> Tensor:
        out: Tensor = dropout(View(shard, seed=seed, step=step)[layer], ones)
        return out

    first = draw(0, 0)
    assert draw(0, 0).equal(first)
    assert not draw(1, 0).equal(first)
    assert not draw(0, 1).equal(first)
    assert not draw(0, 0, seed=1).equal(first)
    run = run_layer(Twice, GRAPH)
    assert not np.array_equal(run.out_NO[:, :3], run.out_NO[:, 3:])


def test_dropout_takes_any_shape_and_no_rows() -> None:
    view = View(gt.open_shard(GRAPH))[0]
    for shape in ((30,), (30, 0), (30, 2, 3)):
        assert Dropout(0.5)(view, torch.ones(shape)).shape == shape
    empty = run_layer(lambda: Dropout(0.5), to_graph(random_graph(2, 50)), 2, "edge-hash")
    assert len(empty.out_NO) == 2


@pytest.mark.parametrize("width", [3, 5000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_dropout_is_the_same_on_any_number_of_threads(threads: int, width: int) -> None:
    num_rows = 400
    view = View(gt.open_shard(to_graph(random_graph(num_rows, 10))))[0]
    ones = torch.ones(num_rows, width, requires_grad=True)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out = Dropout(0.25)(view, ones)
        out.sum().backward()
    finally:
        torch.set_num_threads(before)
    stream = stream_id(Purpose.NODE_DROPOUT, layer=0, call=0)
    kept = torch.from_numpy(keep_mask(view.node_keys, width, 0.25, view.view.step_key, stream))
    scale = torch.tensor(1 / 0.75)
    assert torch.equal(out.detach(), kept * scale)
    assert ones.grad is not None
    assert torch.equal(ones.grad, kept * scale)


def test_gradient_with_a_sole_owner_is_changed_in_place() -> None:
    view = View(gt.open_shard(GRAPH))[0]
    seen: list[int] = []
    x = torch.randn(30, 8, requires_grad=True)
    y = Seen.apply(Dropout(0.5)(view, Seen.apply(x, seen)), seen)  # type: ignore[no-untyped-call]
    (2 * y).sum().backward()
    assert seen[0] == seen[1]
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x.detach(), 2 * y.detach())


def test_shared_gradient_is_not_changed() -> None:
    view, given = View(gt.open_shard(GRAPH))[0], torch.ones(30, 8)
    x, z = torch.randn(30, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    dropped = Dropout(0.5)(view, x)
    (dropped + z).backward(given)
    assert (given == 1).all()
    assert z.grad is not None
    assert (z.grad == 1).all()
    assert x.grad is not None
    assert torch.equal(x.grad * x.detach(), dropped.detach())


def test_dropout_returns_its_input() -> None:
    view, x = View(gt.open_shard(GRAPH))[0], torch.ones(30, 3)
    assert Dropout(0.5).eval()(view, x) is x
    assert Dropout(0.0)(view, x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, 2])
def test_dropout_raises_config_error(p: float) -> None:
    with pytest.raises(ConfigError, match=r"expected p in \[0, 1\), got"):
        Dropout(p)


@pytest.mark.parametrize(("workers", "method"), [(1, "dbh"), (2, "node-hash"), (3, "dbh")])
@pytest.mark.parametrize("heads", [None, 4])
def test_keep_is_by_edge_key_and_head(heads: int | None, workers: int, method: str) -> None:
    def gather(layer: Any, src: Any, dst: Any, edge: Any) -> Tensor:
        mask = keep(0.4, heads)
        return mask.reshape(-1, heads or 1) * torch.ones_like(src["h"][:, :1])

    run = run_layer(lambda: written(gather), GRAPH, workers, method)
    stream = stream_id(Purpose.EDGE_DROPOUT, layer=0, call=0)
    kept = keep_mask(np.arange(120), heads or 1, 0.4, step_key(3, 5), stream) / 0.6
    want = np.zeros((30, heads or 1))
    np.add.at(want, GRAPH.dst, kept)
    np.testing.assert_allclose(run.out_NO, want, rtol=1e-12)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("workers", "method"), [(1, "dbh"), (3, "dbh")])
def test_layers_on_one_view_draw_their_own_masks(
    workers: int, method: str, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chunked:
        monkeypatch.setattr("graphtheta.tgar.layer.program_of", lambda *a, **o: NotLowered("test"))

    def gather(layer: Any, src: Any, dst: Any, edge: Any) -> Tensor:
        return (keep(0.4) + 10 * keep(0.4)).unsqueeze(-1) * torch.ones_like(src["h"])

    run = run_layer(lambda: Applied([written(gather), written(gather)]), GRAPH, workers, method)
    kept = [
        keep_mask(np.arange(120), 1, 0.4, step_key(3, 5), stream_id(Purpose.EDGE_DROPOUT, 0, call))
        for call in range(4)
    ]
    want = np.zeros((2, 30))
    np.add.at(want[0], GRAPH.dst, (kept[0] + 10 * kept[1])[:, 0] / 0.6)
    np.add.at(want[1], GRAPH.dst, (kept[2] + 10 * kept[3])[:, 0] / 0.6)
    np.testing.assert_allclose(run.out_NO[:, ::3], want.T, rtol=1e-12)


class Applied(nn.Module):
    """Layers on the same view, with their outputs side by side."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, view: LayerView, x: Tensor) -> Tensor:
        return torch.cat([layer(view, x) for layer in self.layers], 1)


def test_relations_draw_their_own_masks_of_self_loops() -> None:
    def gather(layer: Any, src: Any, dst: Any, edge: Any) -> Tensor:
        return keep(0.4, 3) * torch.ones_like(src["h"])

    ids = pa.array(range(9))
    none = pa.table({"src": ids[:0], "dst": ids[:0]})
    nodes = pa.table({"id": ids, "x": [0.0] * 9})
    graph = gt.Graph.from_arrow({"n": nodes}, {("n", "a", "n"): none, ("n", "b", "n"): none})
    layer = HeteroConv({one: written(gather, self_loops=True) for one in ("n-a-n", "n-b-n")})
    view = View(gt.open_shard(graph), seed=3, step=5)
    out = layer(view[0], torch.zeros(9, 3, dtype=torch.float64))
    kept = [
        keep_mask(-1 - np.arange(9), 3, 0.4, step_key(3, 5), stream_id(Purpose.EDGE_DROPOUT, 0, n))
        for n in range(2)
    ]
    np.testing.assert_allclose(out.detach(), (kept[0] * 1.0 + kept[1]) / 0.6, rtol=1e-12)


def test_more_calls_of_dropout_than_streams_are_refused() -> None:
    view = View(gt.open_shard(GRAPH))[2]
    streams = view.edge_draws(4096)[2:]
    assert len(np.unique(streams)) == 4096
    with pytest.raises(ConfigError, match=r"^view\[2\]: expected at most 4,096 calls of dropout"):
        view.edge_draws(1)


def test_keep_of_self_loops_is_by_node_key() -> None:
    def gather(layer: Any, src: Any, dst: Any, edge: Any) -> Tensor:
        return keep(0.4, 3) * torch.ones_like(src["h"])

    graph = to_graph(random_graph(9, 0), dtype=np.float64)
    want = run_layer(lambda: written(gather, self_loops=True), graph).out_NO
    stream = stream_id(Purpose.EDGE_DROPOUT)
    kept = keep_mask(-1 - np.arange(9), 3, 0.4, step_key(3, 5), stream)
    np.testing.assert_allclose(want, kept / 0.6, rtol=1e-12)
    together = run_layer(lambda: written(gather, self_loops=True), graph, 3, "dbh")
    np.testing.assert_array_equal(together.out_NO, want)
