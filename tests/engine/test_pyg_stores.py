"""The stores, samplers and loaders keep the promises of PyG's interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.engine import RemoteGraph
from graphtheta.engine.pyg import (
    RemoteFeatureStore,
    RemoteGraphStore,
    RemoteLinkLoader,
    RemoteNodeLoader,
    RemoteSampler,
)
from graphtheta.errors import ConfigError, GraphFormatError, UnknownAttribute
from graphtheta.partition import Plan, make_store
from tests.engine.stores import serving, weighted

pyg_data = pytest.importorskip("torch_geometric.data")
pyg_loader = pytest.importorskip("torch_geometric.loader")
pyg_sampler = pytest.importorskip("torch_geometric.sampler")

EDGES = ("node", "to", "node")
WRONG_GROUPS = ["paper", "node", ("paper", "cites", "paper"), ("node", "node"), 0]


@dataclass
class World:
    remote: RemoteGraph
    features: RemoteFeatureStore
    edges: RemoteGraphStore
    data: Any

    @property
    def stores(self) -> tuple[RemoteFeatureStore, RemoteGraphStore]:
        return self.features, self.edges


@pytest.fixture(scope="module", params=["node-hash", "dbh"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    path, graph = tmp_path_factory.mktemp("pyg") / "store", weighted()
    make_store(graph, path, Plan(3, request.param))
    with serving(path, 2) as remote:
        yield World(remote, RemoteFeatureStore(remote), RemoteGraphStore(remote), graph.to_pyg())


# -- feature stores -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [
        None,
        slice(None),
        slice(3, 9),
        slice(-5, None),
        slice(80, 5, -7),
        torch.tensor([5, 0, 89, 5]),
        torch.tensor([5, 0], dtype=torch.int32),
        torch.arange(90) % 4 == 1,
        torch.zeros(90, dtype=torch.bool),
        torch.tensor([], dtype=torch.long),
        torch.tensor(7),
        7,
    ],
    ids=lambda index: str(index)[:20],
)
def test_every_index_selects_what_it_selects_of_a_tensor(world: World, index: Any) -> None:
    x = world.data.x
    rows = np.arange(90)[index].copy() if isinstance(index, slice) else index
    wanted = x if index is None else x[rows]
    found = world.features[None, "x", index]
    assert found.shape == wanted.shape
    assert found.equal(wanted)


def test_edge_attributes_are_in_the_order_of_the_edges(world: World) -> None:
    attr = world.data.edge_attr
    mask = torch.arange(len(attr)) % 9 == 2
    assert world.features[EDGES, "edge_attr", None].equal(attr)
    assert world.features[EDGES, "edge_attr", mask].equal(attr[mask])
    assert world.features[EDGES, "edge_attr", slice(5, 50, 3)].equal(attr[5:50:3])
    assert world.features[EDGES, "edge_attr", torch.tensor([9, 4])].equal(attr[[9, 4]])


def test_views_and_several_attributes(world: World) -> None:
    features, data = world.features, world.data
    index = torch.tensor([4, 2])
    view = features.view(group_name=None)
    assert view.x[index].equal(data.x[index])
    assert view["x"][:].equal(data.x)
    assert features[pyg_data.TensorAttr(None, "x")]().equal(data.x)
    attrs = [pyg_data.TensorAttr(None, name, index) for name in ("y", "x")]
    attrs.append(pyg_data.TensorAttr(EDGES, "edge_attr", index))
    y, x, edge_attr = features.multi_get_tensor(attrs)
    assert x.equal(data.x[index])
    assert y.equal(data.y[index])
    assert edge_attr.equal(data.edge_attr[index])
    assert [a.attr_name for a in features.get_all_tensor_attrs()] == ["x", "y"]
    with pytest.raises(ValueError, match="not fully"):
        features.get_tensor(group_name=None)


@pytest.mark.parametrize("group", WRONG_GROUPS, ids=str)
def test_wrong_groups_do_not_exist(world: World, group: Any) -> None:
    for name in ("x", "edge_attr"):
        with pytest.raises(KeyError, match="feature store: expected one of x, y") as caught:
            world.features.get_tensor(group, name, None)
        assert isinstance(caught.value, ConfigError)
        assert world.features.get_tensor_size(group, name) is None
    with pytest.raises(KeyError, match="not found"):
        world.edges.get_edge_index(group, "coo")


@pytest.mark.parametrize(("group", "name"), [(None, "z"), (None, "edge_attr"), (EDGES, "x")])
def test_unknown_attributes_are_key_errors(world: World, group: Any, name: str) -> None:
    with pytest.raises(UnknownAttribute) as caught:
        world.features[group, name, torch.tensor([0])]
    assert str(caught.value).startswith("feature store: ")
    assert world.features.get_tensor_size(group, name) is None


@pytest.mark.parametrize(
    "index",
    [
        torch.ones(89, dtype=torch.bool),
        torch.ones(91, dtype=torch.bool),
        torch.ones(90, 1, dtype=torch.bool),
        True,
        torch.tensor([0.5, 1.0]),
        torch.tensor([[0, 1]]),
        1.5,
        "x",
    ],
    ids=lambda index: repr(index)[:30],
)
def test_an_index_that_is_none_is_refused(world: World, index: Any) -> None:
    for group, name in ((None, "x"), (EDGES, "edge_attr")):
        with pytest.raises(GraphFormatError, match=r"index: expected .* mask of \d+ rows"):
            world.features.get_tensor(group, name, index)


@pytest.mark.parametrize("index", [[-1], [90], slice(0, 5), None], ids=str)
def test_node_keys_are_no_positions(world: World, index: Any) -> None:
    """Negative and unknown keys are refused, and a slice ends at the last row."""
    if isinstance(index, list):
        with pytest.raises(GraphFormatError, match="node keys"):
            world.features.get_tensor(None, "x", torch.tensor(index))
    else:
        assert len(world.features.get_tensor(None, "x", index)) == (5 if index else 90)


def test_columns_of_text_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="columns of numbers"):
        RemoteFeatureStore(world.remote, {"x": "original_id"})
    store = RemoteFeatureStore(world.remote, {"a": "row", "b": "row"})
    assert store[None, "a", None].equal(store[None, "b", None])


# -- graph stores ---------------------------------------------------------------------------------


def pairs(src: Tensor, dst: Tensor) -> Tensor:
    """Return sorted pairs of edges."""
    return (src * 90 + dst).sort().values


def test_every_layout_is_that_of_the_local_graph(world: World) -> None:
    store, data = world.edges, world.data
    src, dst = data.edge_index
    assert torch.stack(store.get_edge_index(None, "coo")).equal(data.edge_index)
    row, col, perm = store.coo()
    assert perm is None
    assert torch.stack([row, col]).equal(data.edge_index)
    by_dst = store.get_edge_index(pyg_data.EdgeAttr(None, "coo", is_sorted=True))
    assert by_dst[1].equal(dst.sort().values)
    assert pairs(*by_dst).equal(pairs(src, dst))
    row, col, perm = store.csc()
    assert col.diff().equal(dst.bincount(minlength=90))
    assert row.equal(src[perm])
    assert dst[perm].equal(torch.arange(90).repeat_interleave(col.diff()))
    row, col, perm = store.csr()
    assert row.diff().equal(src.bincount(minlength=90))
    assert col.equal(dst[perm])
    for layout, ends in (("csc", (src, dst)), ("csr", (dst, src))):
        first, second = store[None, layout]
        other, pointer = (first, second) if layout == "csc" else (second, first)
        order = torch.from_numpy(np.argsort(ends[1].numpy(), kind="stable"))
        assert pointer.diff().equal(ends[1].bincount(minlength=90))
        assert other.equal(ends[0][order])


def test_all_edge_attributes_are_valid(world: World) -> None:
    attrs = world.edges.get_all_edge_attrs()
    assert {attr.layout.value for attr in attrs} == {"coo", "csc", "csr"}
    for attr in attrs:
        assert attr.size == (90, 90)
        assert len(world.edges[attr]) == 2
    with pytest.raises(KeyError):
        world.edges.get_edge_index(None, "coo", size=(80, 90))
    for write in (
        lambda: world.edges.put_edge_index(world.data.edge_index, None, "coo"),
        lambda: world.edges.remove_edge_index(None, "coo"),
        lambda: world.edges.coo(store=True) and world.edges.csc(store=True),
    ):
        with pytest.raises(ConfigError):
            write()


@pytest.mark.filterwarnings("ignore:Using 'NeighborSampler'")
def test_pygs_own_neighbour_sampler_reads_the_graph(world: World) -> None:
    """Its edges are edge keys after the permutation, as PyG promises for `e_id`."""
    remote = pyg_sampler.NeighborSampler(world.stores, [-1])
    local = pyg_sampler.NeighborSampler(world.data, [-1])
    assert remote.num_nodes == local.num_nodes
    assert remote.colptr.equal(local.colptr)
    src, dst = world.data.edge_index
    assert remote.row.equal(src[remote.perm])
    assert dst[remote.perm].equal(dst.sort().values)
    loader = pyg_loader.NeighborLoader(world.stores, [2], input_nodes=torch.arange(9))
    assert len(loader) == 9
    own = RemoteSampler(world.remote, [-1, -1])
    options = {"input_nodes": torch.arange(9), "batch_size": 4, "neighbor_sampler": own}
    for batch in pyg_loader.NeighborLoader(world.stores, [-1, -1], **options):
        assert batch.n_id[batch.edge_index].equal(world.data.edge_index[:, batch.e_id])


@pytest.mark.parametrize("undirected", [False, True])
def test_edges_that_were_dropped_leave_gaps_in_the_keys(tmp_path: Path, undirected: bool) -> None:
    data = {"src": [1, 1, 0, 2, 1, 2], "dst": [1, 0, 2, 1, 0, 0], "weight": [1.0, 2, 3, 4, 5, 6]}
    graph = gt.Graph(pa.table({"id": [0, 1, 2]}), pa.table(data))
    plan = Plan(2, "node-hash", self_loops=False, repeats=False, undirected=undirected)
    make_store(graph, tmp_path / "store", plan)
    with serving(tmp_path / "store", 1) as remote:
        features = RemoteFeatureStore(remote)
        src, dst = RemoteGraphStore(remote).get_edge_index(None, "coo")
        weight = features[EDGES, "edge_weight", None]
        wanted = {(1, 0): 2.0, (0, 2): 3.0, (2, 1): 4.0, (2, 0): 6.0}
        assert len(weight) == len(src) == remote.num_edges
        for s, d, w in zip(src.tolist(), dst.tolist(), weight.tolist(), strict=True):
            assert w in (wanted.get((s, d)), wanted.get((d, s)) if undirected else None)
        assert features[EDGES, "edge_weight", slice(1, 3)].equal(weight[1:3])


# -- samplers and loaders -------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [[], [0], [3, 0], [0, 3], [-1, 0, 2]], ids=str)
def test_a_fanout_of_0_draws_no_edges(world: World, numbers: list[int]) -> None:
    seeds = torch.tensor([3, 88, 41])
    (batch,) = RemoteNodeLoader(world.stores, numbers, seeds, batch_size=3)
    drawn = batch.num_sampled_edges
    assert len(drawn) == len(numbers)
    assert all(count == 0 for count, number in zip(drawn, numbers, strict=True) if number == 0)
    assert sum(batch.num_sampled_nodes) == len(batch.n_id) == batch.num_nodes
    assert batch.edge_attr.shape == (sum(drawn), 2)
    assert batch.edge_attr.equal(world.data.edge_attr[batch.e_id])
    assert batch.n_id[batch.edge_index].equal(world.data.edge_index[:, batch.e_id])
    assert batch.x.equal(world.data.x[batch.n_id])


@pytest.mark.parametrize(
    "numbers", [[-2], [1.5], [[1, 2]], 5, {EDGES: [5]}, "five", [True]], ids=str
)
def test_wrong_numbers_of_neighbours_are_refused(world: World, numbers: Any) -> None:
    with pytest.raises(ConfigError, match="sampler: expected a list of numbers"):
        RemoteSampler(world.remote, numbers)


@pytest.mark.parametrize(
    "given",
    [
        None,
        [3, 88, 41],
        range(5),
        np.array([3, 88]),
        torch.tensor([3, 88], dtype=torch.int32),
        torch.arange(90) % 30 == 1,
        np.arange(90) % 30 == 1,
    ],
    ids=lambda given: type(given).__name__,
)
def test_input_nodes_are_lists_or_masks(world: World, given: Any) -> None:
    keys = list(range(90)) if given is None else np.arange(90)[np.asarray(given)].tolist()
    batches = list(RemoteNodeLoader(world.stores, [1], given, batch_size=2))
    seeds = [key for batch in batches for key in batch.n_id[: batch.batch_size].tolist()]
    assert seeds == keys
    is_mask = np.asarray(given).dtype == np.bool_
    ids = [i for batch in batches for i in batch.input_id.tolist()]
    assert ids == (keys if is_mask else list(range(len(keys))))


@pytest.mark.parametrize(
    "given",
    [torch.ones(89, dtype=torch.bool), np.ones(91, bool), ("node", None), "node", [0.5], [[1]]],
    ids=lambda given: str(given)[:12],
)
def test_wrong_input_nodes_are_refused(world: World, given: Any) -> None:
    with pytest.raises(
        GraphFormatError, match="input_nodes: expected a list of integers or a mask"
    ):
        RemoteNodeLoader(world.stores, [1], given)


def test_batches_of_a_graph_without_columns_know_their_nodes(world: World) -> None:
    stores = RemoteFeatureStore(world.remote, {}, {}), world.edges
    (batch,) = RemoteNodeLoader(stores, [0], torch.tensor([87, 88, 89]), batch_size=3)
    assert batch.num_nodes == 3


def test_times_are_refused(world: World) -> None:
    seeds = torch.arange(4)
    loader = RemoteNodeLoader(world.stores, [1], seeds, input_time=seeds)
    with pytest.raises(ConfigError, match="without times"):
        next(iter(loader))


@pytest.mark.parametrize("mode", ["binary", "triplet"])
def test_links_and_negatives(world: World, mode: str) -> None:
    links = world.data.edge_index[:, 10:30]
    negatives = pyg_sampler.NegativeSampling(mode, 1.0)
    loader = RemoteLinkLoader(
        world.stores, [2], links, batch_size=8, neg_sampling=negatives, shuffle=False
    )
    assert len(loader) == 3
    found = []
    for batch in loader:
        assert batch.n_id[batch.edge_index].equal(world.data.edge_index[:, batch.e_id])
        if mode == "binary":
            positive = batch.n_id[batch.edge_label_index[:, batch.edge_label == 1]]
        else:
            positive = batch.n_id[torch.stack([batch.src_index, batch.dst_pos_index])]
            assert batch.dst_neg_index.max() < len(batch.n_id)
        found.append(positive)
    assert torch.cat(found, 1).equal(links)


def test_links_are_all_edges_by_default(world: World) -> None:
    loader = RemoteLinkLoader(world.stores, [0], None, batch_size=1000)
    (batch,) = loader
    assert batch.n_id[batch.edge_label_index].equal(world.data.edge_index)
    for wrong in (torch.zeros(3, 4, dtype=torch.long), [torch.arange(3), torch.arange(4)]):
        with pytest.raises(GraphFormatError, match="as many sources as destinations"):
            RemoteLinkLoader(world.stores, [1], wrong)
