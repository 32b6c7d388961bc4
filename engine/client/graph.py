"""Client of the graph service: one graph, whose parts any number of servers hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as changed
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.types import Relation, positions_of_keys
from graphtheta.engine.client.arguments import (
    check_addresses,
    check_fanouts,
    check_names,
)
from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.edge_queries import draw_message, edge_columns, find_edges, neighbours
from graphtheta.engine.client.lookup import IdKind, as_integers, look_up
from graphtheta.engine.client.neighbours import Neighbours
from graphtheta.engine.client.node_queries import columns_of, columns_of_all, predict, random_nodes
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.client.subgraph import Subgraph, expand
from graphtheta.errors import ConfigError
from graphtheta.partition import Manifest
from graphtheta.runtime.numbers import need_real
from graphtheta.wording import counted

__all__ = ["RelationName", "RemoteGraph", "connect"]

Fanouts = Sequence[int | None]  # of each layer
RelationName = Relation | tuple[str, str, str] | str
_Ids = NDArray[np.int64]
_MAX_CACHED = 1 << 20  # nodes of the cached subgraph; 16 bytes each


def connect(
    addresses: str | Sequence[str], *, tls: Tls | None = None, timeout_s: float = 60.0
) -> RemoteGraph:
    """Connect to the servers of a store.

    A process that fetches much is faster after `graphtheta.tune(allocator="client")`.

    Args:
        addresses: `host:port` of each server. Servers of the same part share the load.
        tls: Certificates. If None, connections are plain text.
        timeout_s: Longest wait for a response in seconds, retries included.

    Raises:
        ConfigError: If an argument is wrong, or a part has no server.
        Unreachable: If a server does not answer.
        WrongServer: If servers serve different stores or use another version of the protocol.
    """
    seconds = need_real(timeout_s, "connect: timeout_s", is_positive=True)
    return RemoteGraph(check_addresses(addresses), tls, seconds)


class RemoteGraph:
    """A graph that servers hold, as returned by `connect`. It can be shared between threads.

    Methods take nodes as original ids, node keys (rows of the input's node table) or new ids
    (positions in the store); `by` is the kind of the ids. Results are arrays that belong to the
    caller. They depend neither on the partitioning nor on the number of servers.

    In a graph of several node types, original ids need their `node_type`. A node key is the row in
    the table of the type plus the type's first key, and an edge key that of the relation;
    `manifest.node_types` and `manifest.relations` have these.

    Every method raises `UnknownNode` for nodes that do not exist, `GraphFormatError` for ids of
    another type, `ConfigError` for a wrong name or number, and `EngineError` if a server fails to
    answer in time.

    Attributes:
        manifest: Description of the graph: its sizes and columns.
        timeout_s: Longest wait for a response, in seconds.
    """

    def __init__(self, addresses: list[str], tls: Tls | None, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._arguments = (addresses, tls, timeout_s)
        self._pool = ServerPool(addresses, tls, timeout_s)
        self._router = self._pool.router
        # Node keys and new ids of the last subgraph: callers mostly read its columns next.
        self._last_subgraph: tuple[_Ids, _Ids] | None = None
        self.manifest: Manifest = self._router.manifest

    def __repr__(self) -> str:
        servers = ", ".join(dict.fromkeys(c.address for c in self._router.connections))
        counts = {"node": self.num_nodes, "edge": self.num_edges, "part": self.manifest.num_parts}
        sizes = ", ".join(counted(count, noun) for noun, count in counts.items())
        return f"RemoteGraph({sizes} at {servers})"

    def __reduce__(self) -> tuple[Callable[..., RemoteGraph], tuple[Any, ...]]:
        """Pickle the arguments: unpickling opens new connections."""
        return RemoteGraph, self._arguments

    def __enter__(self) -> RemoteGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    @property
    def num_nodes(self) -> int:
        """Number of nodes (N)."""
        return self.manifest.num_nodes

    @property
    def num_edges(self) -> int:
        """Number of edges (E)."""
        return self.manifest.num_edges

    @property
    def node_types(self) -> tuple[str, ...]:
        """Names of the node types, in the order of their node keys."""
        return tuple(of_type.name for of_type in self.manifest.node_types)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Relations, in the order of their edge keys."""
        return tuple(spec.relation for spec in self.manifest.relations)

    def types_of(self, node_keys: _Ids) -> _Ids:
        """Return the position in `node_types` of the type of each node: (R,) int64."""
        return positions_of_keys(node_keys, self.manifest.first_node_keys)

    def relations_of(self, edge_keys: _Ids) -> _Ids:
        """Return the position in `relations` of the relation of each edge: (R,) int64."""
        return positions_of_keys(edge_keys, self.manifest.first_edge_keys)

    def statistics(self) -> dict[str, Any]:
        """Return the sizes of the graph and of its parts, and the server of each part."""
        router = self._router
        return {
            "num_nodes": self.num_nodes,
            "num_edges": self.num_edges,
            "node_types": {t.name: t.count for t in self.manifest.node_types},
            "relations": {r.relation.text: r.count for r in self.manifest.relations},
            "cut": self.manifest.cut,
            "parts": [
                {"masters": int(m), "mirrors": int(h), "edges": int(e), "server": c.address}
                for m, h, e, c in zip(*router.counts, router.connections, strict=True)
            ],
        }

    # -- nodes ------------------------------------------------------------------------------------

    def new_ids(self, ids: Any, by: IdKind = "original_id", node_type: str | None = None) -> _Ids:
        """Return the new ids of nodes.

        Args:
            ids: R nodes.
            by: Kind of `ids`: `original_id`, `node_key` or `new_id`.
            node_type: Type of the nodes, for original ids in a graph of several types.

        Shape:
            Returns (R,) int64.
        """
        last = self._last_subgraph
        is_keys = by == "node_key" and isinstance(ids, np.ndarray) and ids.dtype == np.int64
        if is_keys and last is not None and np.array_equal(ids, last[0]):
            return last[1].copy()
        return look_up(self._pool, ids, by, node_type)

    def columns(
        self,
        ids: Any,
        names: Sequence[str],
        by: IdKind = "original_id",
        node_type: str | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return columns of nodes.

        Besides the columns of the input there are `node_key`, `original_id`, `in_degree` and
        `out_degree`. Missing integers and booleans are -1, missing floats NaN.

        Args:
            ids: R nodes. If None, all nodes, or those of `node_type`, in the order of the input's
                node tables.
            names: Names of columns, such as `features`, `label:y` or `split:split`.
            by: Kind of `ids`.
            node_type: Type of the nodes and columns. If None, the only type; in a graph of several,
                only `node_key` and the degrees, for nodes of any type.

        Shape:
            Returns (R,) or (R, width) each.
        """
        wanted = check_names(names, "columns")
        if ids is None:
            return columns_of_all(self._pool, wanted, node_type)
        return columns_of(self._pool, self.new_ids(ids, by, node_type), wanted, node_type)

    def degrees(
        self, ids: Any, by: IdKind = "original_id", node_type: str | None = None
    ) -> tuple[_Ids, _Ids]:
        """Return the in-degrees and out-degrees of nodes in the whole graph.

        Shape:
            ids: R nodes. Returns (R,) int64 each.
        """
        found = self.columns(ids, ["in_degree", "out_degree"], by, node_type)
        return found["in_degree"], found["out_degree"]

    def random_nodes(
        self, count: int, *, seed: int = 0, step: int = 0, node_type: str | None = None
    ) -> _Ids:
        """Return the node keys of random nodes, drawn without replacement.

        They depend on the seed, the step and the number of nodes to draw from, but not on the
        partitioning of the graph.

        Args:
            count: Number of nodes.
            seed: Random seed.
            step: Number of the draw. Each has an order of its own.
            node_type: Type of the nodes. If None, they are drawn from all types.

        Shape:
            Returns (count,) int64, of at most N nodes, or as many as the type has.
        """
        return random_nodes(self.manifest, count, seed, step, node_type)

    # -- edges ------------------------------------------------------------------------------------

    def neighbours(
        self,
        ids: Any,
        *,
        by: IdKind = "original_id",
        direction: Literal["in", "out"] = "in",
        fanout: int | None = None,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        step: int = 0,
        layer: int = 0,
        columns: Sequence[str] = (),
        node_type: str | None = None,
        relation: RelationName | None = None,
    ) -> Neighbours:
        """Return the edges of nodes: all, or the in-edges that training draws.

        Args:
            ids: R nodes.
            by: Kind of `ids`.
            direction: Whether to return in-edges (whose other ends are sources) or out-edges.
            fanout: In-edges to draw for each node. If None, all edges are returned.
            replace: Whether an edge can be drawn more than once.
            weight: Edge column that holds the draw weights. If None, draws are uniform.
            seed: Random seed of the draws, as in training.
            step: Training step of the draws.
            layer: Layer of the draws, counted from the input.
            columns: Edge columns to return with the edges.
            node_type: Type of the nodes, for original ids in a graph of several types. If None, the
                type of the relation's nodes in this direction, if there is a relation.
            relation: Relation of the edges, as three names or a text such as
                `author-writes-paper`, to which `fanout` and `columns` then apply. If None, the
                edges of all relations; `relations_of(edge_key)` tells them apart.
        """
        names = check_names(columns, "neighbours: columns")
        of = self._relation(relation)
        if direction not in ("in", "out"):
            raise ConfigError(f"direction: expected in or out, got {direction!r}.")
        draw = draw_message(fanout, replace, weight, seed, step, layer)
        out = direction == "out"
        if of is not None and node_type is None and by == "original_id":
            node_type = of.source if out else of.destination
        new_ids = self.new_ids(ids, by, node_type)
        return neighbours(self._pool, new_ids, names, draw, out=out, relation=of)

    def _relation(self, name: RelationName | None) -> Relation | None:
        if name is None:
            return None
        return self.relations[self.manifest.position_of_relation(Relation.of(name))]

    def subgraph(
        self,
        ids: Any,
        fanouts: Fanouts | Mapping[RelationName, Fanouts],
        *,
        by: IdKind = "original_id",
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        step: int = 0,
        columns: Sequence[str] = (),
        node_keys: Any = None,
        node_type: str | None = None,
    ) -> Subgraph:
        """Return the in-neighbourhood of nodes, with as many hops as there are fan-outs.

        With the fan-outs `[None] * k`, a model of k layers computes on the subgraph exactly what it
        would compute for these nodes on the whole graph.

        Args:
            ids: R seed nodes.
            fanouts: In-edges to draw for each node, for each layer from the input; the first hop
                uses the last one. None takes all edges, 0 none. A mapping of relations to such
                lists, all of one length, draws for each relation; those left out have no edges.
            by: Kind of `ids`.
            replace: Whether an edge can be drawn more than once.
            weight: Edge column that holds the draw weights. If None, draws are uniform.
            seed: Random seed of the draws, as in training.
            step: Training step of the draws.
            columns: Edge columns to return with the edges, in a graph of one relation.
            node_type: Type of the nodes, for original ids in a graph of several types.
            node_keys: Node keys of the seed nodes, if `ids` are new ids and the keys are known.
                Passing both saves one round trip.
        """
        names = check_names(columns, "subgraph: columns")
        new_ids = self.new_ids(ids, by, node_type)
        by_relation = self._fanouts(fanouts) if isinstance(fanouts, Mapping) else None
        if by_relation is not None and names:
            raise ConfigError(
                "subgraph: expected no columns with fan-outs by relation, got "
                f"{', '.join(names)}. Request them by relation with edge_columns."
            )
        of_all = [] if isinstance(fanouts, Mapping) else check_fanouts(fanouts)
        num_layers = len(next(iter(by_relation.values()), [])) if by_relation else len(of_all)
        if by == "node_key":
            keys = ids
        elif node_keys is None or by != "new_id":
            keys = self.columns(new_ids, ["node_key"], "new_id")["node_key"]
        else:
            keys = as_integers(node_keys, "node keys")
            if len(keys) != len(new_ids):
                raise ConfigError(
                    f"subgraph: expected a node key for each of {len(new_ids):,} nodes, got "
                    f"{len(keys):,}."
                )

        def some(nodes: _Ids, fanout: int | None, layer: int, of: Relation | None) -> Neighbours:
            if fanout == 0:
                none = neighbours(self._pool, nodes[:0], names, None, out=False)
                return changed(none, indptr=np.zeros(len(nodes) + 1, np.int64))
            draw = draw_message(fanout, replace, weight, seed, step, layer)
            return neighbours(self._pool, nodes, names, draw, out=False, relation=of)

        def in_edges(nodes: _Ids, node_keys: _Ids, layer: int) -> Neighbours:
            if by_relation is None:
                return some(nodes, of_all[layer] if num_layers else 0, layer, None)
            types, lists = self.types_of(node_keys), []
            for relation, sizes in by_relation.items():
                position = self.manifest.position_of_type(relation.destination)
                rows = np.flatnonzero(types == position)
                if len(rows) and sizes[layer] != 0:
                    lists.append((rows, some(nodes[rows], sizes[layer], layer, relation)))
            return Neighbours.merged(lists, len(nodes))

        found = expand(new_ids, np.asarray(keys, np.int64), num_layers, in_edges)
        if len(found.node_key) <= _MAX_CACHED:
            self._last_subgraph = found.node_key.copy(), found.new_id.copy()
        return found

    def _fanouts(self, fanouts: Mapping[RelationName, Fanouts]) -> dict[Relation, list[int | None]]:
        found = {}
        for name, sizes in fanouts.items():
            relation = self._relation(name)
            assert relation is not None
            found[relation] = check_fanouts(sizes)
        if len({len(sizes) for sizes in found.values()}) > 1:
            raise ConfigError(
                "subgraph: expected as many fan-outs for each relation, got "
                f"{', '.join(f'{len(s)} for {r.text}' for r, s in found.items())}. Correct them."
            )
        return dict(sorted(found.items(), key=lambda pair: self.relations.index(pair[0])))

    def find_edges(
        self,
        src: Any,
        dst: Any,
        by: IdKind = "original_id",
        *,
        relation: RelationName | None = None,
    ) -> _Ids:
        """Return the lowest edge key from each source to its destination, or -1 if there is none.

        Args:
            src: R sources.
            dst: R destinations.
            by: Kind of `src` and `dst`.
            relation: Relation of the edges, needed for original ids in a graph of several types. If
                None, all edges.

        Shape:
            Returns (R,) int64.
        """
        of = self._relation(relation)
        types = (of.source, of.destination) if of and by == "original_id" else (None, None)
        sources, destinations = self.new_ids(src, by, types[0]), self.new_ids(dst, by, types[1])
        if len(sources) != len(destinations):
            raise ConfigError(
                f"find edges: expected as many sources as destinations, got {len(sources):,} and "
                f"{len(destinations):,}."
            )
        return find_edges(self._pool, sources, destinations, of)

    def edge_columns(
        self,
        edge_keys: Any,
        names: Sequence[str],
        *,
        dst: Any = None,
        by: IdKind = "original_id",
        relation: RelationName | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Return columns of edges.

        Args:
            edge_keys: R edge keys.
            names: Names of edge columns, such as `attr` or `type`.
            dst: Destinations of the edges, whose lists are searched. If None, every server scans
                all its edges, at about 100 million edges per second.
            by: Kind of `dst`.
            relation: Relation of the edges. If None, the only relation.

        Shape:
            Returns (R,) or (R, width) each.
        """
        wanted = check_names(names, "edge columns")
        keys = as_integers(edge_keys, "edge keys")
        of = self._relation(relation)
        node_type = of.destination if of and by == "original_id" else None
        nodes = None if dst is None else self.new_ids(dst, by, node_type)
        if nodes is not None and len(nodes) != len(keys):
            raise ConfigError(
                f"edge columns: expected as many destinations as keys, got {len(nodes):,} and "
                f"{len(keys):,}."
            )
        return edge_columns(self._pool, keys, wanted, nodes, of)

    # -- predictions ------------------------------------------------------------------------------

    def predict(self, ids: Any, by: IdKind = "original_id") -> dict[str, NDArray[Any]]:
        """Return the predictions of a trained model for nodes; a server must have been given a run.

        In a graph of several node types, the nodes are of the type that the run predicts.

        Shape:
            ids: R nodes. Returns `prediction` and `probability`, (R,) or (R, width) each.
        """
        return predict(self._pool, self.new_ids(ids, by, self._router.predicted_type))
