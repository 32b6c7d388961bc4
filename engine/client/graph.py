"""Client of the graph service: one graph, whose parts any number of servers hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.edge_queries import draw_message, edge_columns, find_edges, neighbours
from graphtheta.engine.client.lookup import IdKind, as_integers, look_up
from graphtheta.engine.client.neighbours import Neighbours
from graphtheta.engine.client.node_queries import columns_of, columns_of_all, predict
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.client.subgraph import Subgraph, expand
from graphtheta.errors import ConfigError
from graphtheta.partition import Manifest
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.wording import counted

__all__ = ["RemoteGraph", "connect"]

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
        ConfigError: If a part has no server.
        Unreachable: If a server does not answer.
        WrongServer: If servers serve different stores or use another version of the protocol.
    """
    given = [addresses] if isinstance(addresses, str) else list(addresses)
    return RemoteGraph(given, tls, timeout_s)


class RemoteGraph:
    """A graph that servers hold, as returned by `connect`. It can be shared between threads.

    Methods take nodes as original ids, node keys (rows of the input's node table) or new ids
    (positions in the store); `by` is the kind of the ids. Results are arrays that belong to the
    caller. They depend neither on the partitioning nor on the number of servers.

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

    def statistics(self) -> dict[str, Any]:
        """Return the sizes of the graph and of its parts, and the server of each part."""
        router = self._router
        return {
            "num_nodes": self.num_nodes,
            "num_edges": self.num_edges,
            "cut": self.manifest.cut,
            "parts": [
                {"masters": int(m), "mirrors": int(h), "edges": int(e), "server": c.address}
                for m, h, e, c in zip(*router.counts, router.connections, strict=True)
            ],
        }

    # -- nodes ------------------------------------------------------------------------------------

    def new_ids(self, ids: Any, by: IdKind = "original_id") -> _Ids:
        """Return the new ids of nodes.

        Args:
            ids: R nodes.
            by: Kind of `ids`: `original_id`, `node_key` or `new_id`.

        Shape:
            Returns (R,) int64.
        """
        last = self._last_subgraph
        is_keys = by == "node_key" and isinstance(ids, np.ndarray) and ids.dtype == np.int64
        if is_keys and last is not None and np.array_equal(ids, last[0]):
            return last[1].copy()
        return look_up(self._pool, ids, by)

    def columns(
        self, ids: Any, names: Sequence[str], by: IdKind = "original_id"
    ) -> dict[str, NDArray[Any]]:
        """Return columns of nodes.

        Besides the columns of the input there are `node_key`, `original_id`, `in_degree` and
        `out_degree`. Missing integers and booleans are -1, missing floats NaN.

        Args:
            ids: R nodes. If None, all nodes in the order of the input's node table.
            names: Names of columns, such as `features`, `label:y` or `split:split`.
            by: Kind of `ids`.

        Shape:
            Returns (R,) or (R, width) each.
        """
        if ids is None:
            return columns_of_all(self._pool, list(names))
        return columns_of(self._pool, self.new_ids(ids, by), list(names))

    def degrees(self, ids: Any, by: IdKind = "original_id") -> tuple[_Ids, _Ids]:
        """Return the in-degrees and out-degrees of nodes in the whole graph.

        Shape:
            ids: R nodes. Returns (R,) int64 each.
        """
        found = self.columns(ids, ["in_degree", "out_degree"], by)
        return found["in_degree"], found["out_degree"]

    def random_nodes(self, count: int, *, seed: int = 0, step: int = 0) -> _Ids:
        """Return the node keys of random nodes, drawn without replacement.

        They depend on the seed, the step and the size of the graph, but not on its partitioning.

        Shape:
            Returns (count,) int64, of at most N nodes.
        """
        if not 0 <= count <= self.num_nodes:
            raise ConfigError(
                f"random nodes: expected a count in [0, {self.num_nodes:,}], got {count:,}."
            )
        if not count:
            return np.zeros(0, np.int64)
        order = Permutation(self.num_nodes, seed, Purpose.QUERY, step=step)
        return order.forward(np.arange(count))

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
        """
        if direction not in ("in", "out"):
            raise ConfigError(f"direction: expected in or out, got {direction!r}.")
        draw = draw_message(fanout, replace, weight, seed, step, layer)
        new_ids = self.new_ids(ids, by)
        return neighbours(self._pool, new_ids, list(columns), draw, out=direction == "out")

    def subgraph(
        self,
        ids: Any,
        fanouts: Sequence[int | None],
        *,
        by: IdKind = "original_id",
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        step: int = 0,
        columns: Sequence[str] = (),
        node_keys: Any = None,
    ) -> Subgraph:
        """Return the in-neighbourhood of nodes, with as many hops as there are fan-outs.

        With the fan-outs `[None] * k`, a model of k layers computes on the subgraph exactly what it
        would compute for these nodes on the whole graph.

        Args:
            ids: R seed nodes.
            fanouts: In-edges to draw for each node, for each layer from the input; the first hop
                uses the last one. None takes all edges, 0 none.
            by: Kind of `ids`.
            replace: Whether an edge can be drawn more than once.
            weight: Edge column that holds the draw weights. If None, draws are uniform.
            seed: Random seed of the draws, as in training.
            step: Training step of the draws.
            columns: Edge columns to return with the edges.
            node_keys: Node keys of the seed nodes, if `ids` are new ids and the keys are known.
                Passing both saves one round trip.
        """
        new_ids = self.new_ids(ids, by)
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

        def in_edges(nodes: _Ids, fanout: int | None, layer: int) -> Neighbours:
            if fanout == 0:
                none = neighbours(self._pool, nodes[:0], list(columns), None, out=False)
                return changed(none, indptr=np.zeros(len(nodes) + 1, np.int64))
            draw = draw_message(fanout, replace, weight, seed, step, layer)
            return neighbours(self._pool, nodes, list(columns), draw, out=False)

        found = expand(new_ids, np.asarray(keys, np.int64), fanouts, in_edges)
        if len(found.node_key) <= _MAX_CACHED:
            self._last_subgraph = found.node_key.copy(), found.new_id.copy()
        return found

    def find_edges(self, src: Any, dst: Any, by: IdKind = "original_id") -> _Ids:
        """Return the lowest edge key from each source to its destination, or -1 if there is none.

        Shape:
            src, dst: R nodes each. Returns (R,) int64.
        """
        sources, destinations = self.new_ids(src, by), self.new_ids(dst, by)
        if len(sources) != len(destinations):
            raise ConfigError(
                f"find edges: expected as many sources as destinations, got {len(sources):,} and "
                f"{len(destinations):,}."
            )
        return find_edges(self._pool, sources, destinations)

    def edge_columns(
        self, edge_keys: Any, names: Sequence[str], *, dst: Any = None, by: IdKind = "original_id"
    ) -> dict[str, NDArray[Any]]:
        """Return columns of edges.

        Args:
            edge_keys: R edge keys.
            names: Names of edge columns, such as `attr` or `type`.
            dst: Destinations of the edges, whose lists are searched. If None, every server scans
                all its edges, at about 100 million edges per second.
            by: Kind of `dst`.

        Shape:
            Returns (R,) or (R, width) each.
        """
        keys = as_integers(edge_keys, "edge keys")
        nodes = None if dst is None else self.new_ids(dst, by)
        if nodes is not None and len(nodes) != len(keys):
            raise ConfigError(
                f"edge columns: expected as many destinations as keys, got {len(nodes):,} and "
                f"{len(keys):,}."
            )
        return edge_columns(self._pool, keys, list(names), nodes)

    # -- predictions ------------------------------------------------------------------------------

    def predict(self, ids: Any, by: IdKind = "original_id") -> dict[str, NDArray[Any]]:
        """Return the predictions of a trained model for nodes; a server must have been given a run.

        Shape:
            ids: R nodes. Returns `prediction` and `probability`, (R,) or (R, width) each.
        """
        return predict(self._pool, self.new_ids(ids, by))
