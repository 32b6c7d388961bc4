"""The graph from elsewhere: one client for all servers of a store.

It knows the book, so it asks the owners of nodes, and where lists are split over parts the holders
of the rest: one request a server, all at once. Results are arrays of the caller's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.client.answers import Answers, best_drawn, filled
from graphtheta.engine.client.connection import Tls
from graphtheta.engine.client.fan_out import Ids, Naming, ServerPool, encoded, integers
from graphtheta.engine.client.subgraph import Neighbours, Subgraph, expand
from graphtheta.engine.wire.limits import COLUMN
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.partition import Manifest
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.runtime.malloc import tune_allocator

__all__ = ["RemoteGraph", "connect"]

_MOST_REMEMBERED = 1 << 20  # nodes of a subgraph, of 16 bytes each
_MAPPED = 32 << 20  # bytes; memory of smaller answers is kept: fresh pages cost a third of fetching


def connect(
    addresses: str | Sequence[str], *, tls: Tls | None = None, timeout_s: float = 60.0
) -> RemoteGraph:
    """Return the graph that some servers serve together.

    The process's allocator is tuned from here on (`graphtheta.runtime.malloc`).

    Args:
        addresses: `host:port` of each server. Where several serve a part, they share the work.
        tls: Certificates; None: plain text.
        timeout_s: Longest wait for an answer, trying again included.

    Raises:
        ConfigError: If no server serves one of the parts.
        Unreachable: If a server is not there.
        WrongServer: If servers serve different stores, or speak another protocol.
    """
    tune_allocator(_MAPPED)
    given = [addresses] if isinstance(addresses, str) else list(addresses)
    return RemoteGraph(given, tls, timeout_s)


class RemoteGraph:
    """A graph that servers hold; made by `connect`. Threads may share it.

    Nodes are given by what `by` says: original ids, node keys (rows of the input table, the same
    however the graph is partitioned) or new ids. Every method raises `UnknownNode` for those that
    there are not, `GraphFormatError` for ids of another type, `ConfigError` for a wrong name or
    number, and an `EngineError` where a server fails to answer in time.

    Attributes:
        manifest: What describes the whole graph.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, addresses: list[str], tls: Tls | None, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._given = (addresses, tls, timeout_s)
        self._asker = ServerPool(addresses, tls, timeout_s)
        self._router = self._asker.router
        # Keys and new ids of the last subgraph: its nodes' columns are asked for next.
        self._last: tuple[Ids, Ids] | None = None
        self.manifest: Manifest = self._router.manifest

    def __reduce__(self) -> tuple[Callable[..., RemoteGraph], tuple[Any, ...]]:
        """Connect anew wherever this is sent, for connections stay where they are."""
        return RemoteGraph, self._given

    def __enter__(self) -> RemoteGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._asker.close()

    @property
    def num_nodes(self) -> int:
        """Nodes of the graph (N)."""
        return self.manifest.num_nodes

    @property
    def num_edges(self) -> int:
        """Edges of the graph (E)."""
        return self.manifest.num_edges

    def statistics(self) -> dict[str, Any]:
        """Return sizes of the graph and of its parts, and who serves them."""
        router = self._router
        return {
            "num_nodes": self.num_nodes,
            "num_edges": self.num_edges,
            "cut": self.manifest.cut,
            "parts": [
                {"masters": int(m), "mirrors": int(h), "edges": int(e), "server": link.address}
                for m, h, e, link in zip(*router.counts, router.links, strict=True)
            ],
        }

    # -- nodes ------------------------------------------------------------------------------------

    def new_ids(self, ids: Any, by: Naming = "original_id") -> Ids:
        """Return the new ids of nodes.

        Shape:
            ids: R of them. Returns (R,) int64.
        """
        last = self._last
        is_keys = by == "node_key" and isinstance(ids, np.ndarray) and ids.dtype == np.int64
        if is_keys and last is not None and np.array_equal(ids, last[0]):
            return last[1].copy()
        return self._asker.new_ids(ids, by)

    def columns(
        self, ids: Any, names: Sequence[str], by: Naming = "original_id"
    ) -> dict[str, NDArray[Any]]:
        """Return columns of nodes: of the input, `node_key`, `original_id` or degrees.

        Missing integers and booleans are -1, missing reals NaN.

        Args:
            ids: R nodes; None: all, in the order of the input's table.
            names: Such as `features`, `label:y`, `split:split`, `in_degree`.
            by: What `ids` are.

        Shape:
            Returns (R,) or (R, width) each.
        """
        names = list(names)
        if ids is None:
            return self._all_columns(names)
        new_ids = self.new_ids(ids, by)
        jobs = [
            (
                link,
                messages.NodeColumnsRequest(nodes=encoded(new_id=new_ids[rows]), columns=names),
                rows,
            )
            for link, rows in self._asker.split(self._router.owners(new_ids))
        ]
        answers = self._asker.ask("NodeColumns", jobs)
        return {n: answers.placed(n, len(new_ids), self._router.type_of(n)) for n in names}

    def degrees(self, ids: Any, by: Naming = "original_id") -> tuple[Ids, Ids]:
        """Return in- and out-degrees in the whole graph: (R,) each."""
        found = self.columns(ids, ["in_degree", "out_degree"], by)
        return found["in_degree"], found["out_degree"]

    def random_nodes(self, count: int, *, seed: int = 0, step: int = 0) -> Ids:
        """Return node keys of nodes drawn without replacement; the same however it is partitioned.

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
        by: Naming = "original_id",
        direction: Literal["in", "out"] = "in",
        fanout: int | None = None,
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        step: int = 0,
        layer: int = 0,
        columns: Sequence[str] = (),
    ) -> Neighbours:
        """Return edges of nodes: all, or those that training draws at a seed, step and layer.

        Args:
            ids: R nodes.
            by: What `ids` are.
            direction: In-edges, whose other ends are sources, or out-edges.
            fanout: In-edges to draw of each node; None: all.
            replace: Whether an edge can be drawn more than once.
            weight: Edge column that edges are drawn in proportion to.
            seed: Of the draws, as of a trainer.
            step: Of the draws.
            layer: Of the draws, counted from the input.
            columns: Edge columns to add.
        """
        if direction not in ("in", "out"):
            raise ConfigError(f"direction: expected in or out, got {direction!r}.")
        draw = None
        if fanout is not None:
            draw = _draw(fanout, replace, weight, seed, step, layer)
        new_ids, names = self.new_ids(ids, by), list(columns)

        def request(nodes: bytes) -> messages.NeighboursRequest:
            way = messages.DIRECTION_IN if direction == "in" else messages.DIRECTION_OUT
            return messages.NeighboursRequest(nodes=nodes, direction=way, draw=draw, columns=names)

        answers = self._asker.at_lists(
            "Neighbours",
            new_ids,
            lambda rows, **rest: request(encoded(new_id=new_ids[rows], **rest)),
        )
        in_order = direction == "in" and self.manifest.cut == "edge"
        return self._lists(answers, len(new_ids), names, draw, in_order=in_order)

    def subgraph(
        self,
        ids: Any,
        fanouts: Sequence[int | None],
        *,
        by: Naming = "original_id",
        replace: bool = False,
        weight: str | None = None,
        seed: int = 0,
        step: int = 0,
        columns: Sequence[str] = (),
        node_keys: Any = None,
    ) -> Subgraph:
        """Return what is around nodes: all within as many in-hops as there are fanouts, or drawn.

        With `[None] * k` a model of k layers computes exactly the nodes asked for.

        Args:
            ids: R nodes.
            fanouts: In-edges to draw of each node, of each layer from the input; None: all.
            by: What `ids` are.
            replace: As of `neighbours`, and so are the others.
            weight: Edge column that edges are drawn in proportion to.
            seed: Of the draws.
            step: Of the draws.
            columns: Edge columns to add.
            node_keys: Where `ids` are new ids: their node keys, if they are known. Whoever asks
                about the same nodes again and again, and keeps both, saves a round trip each time.
        """
        new_ids = self.new_ids(ids, by)
        if by == "node_key":
            keys = ids
        elif node_keys is None or by != "new_id":
            keys = self.columns(new_ids, ["node_key"], "new_id")["node_key"]
        else:
            keys = integers(node_keys, "node keys")
            if len(keys) != len(new_ids):
                raise ConfigError(
                    f"subgraph: expected a node key of each of {len(new_ids):,} nodes, got "
                    f"{len(keys):,}."
                )

        def ask(nodes: Ids, fanout: int | None, layer: int) -> Neighbours:
            return self.neighbours(
                nodes,
                by="new_id",
                fanout=fanout,
                replace=replace,
                weight=weight,
                seed=seed,
                step=step,
                layer=layer,
                columns=columns,
            )

        found = expand(new_ids, np.asarray(keys, np.int64), fanouts, ask)
        if len(found.node_key) <= _MOST_REMEMBERED:
            self._last = found.node_key.copy(), found.new_id.copy()
        return found

    def find_edges(self, src: Any, dst: Any, by: Naming = "original_id") -> Ids:
        """Return the lowest key of the edges from one node to another, -1 where there is none.

        Shape:
            src, dst: R nodes. Returns (R,) int64.
        """
        sources, destinations = self.new_ids(src, by), self.new_ids(dst, by)
        if len(sources) != len(destinations):
            raise ConfigError(
                f"find edges: expected as many sources as destinations, got {len(sources):,} and "
                f"{len(destinations):,}."
            )
        answers = self._asker.at_lists(
            "FindEdges",
            destinations,
            lambda rows, in_degree=None, **part: messages.FindEdgesRequest(
                pairs=encoded(src=sources[rows], dst=destinations[rows], **part)
            ),
        )
        highest = np.iinfo(np.int64).max
        found = np.full(len(sources), highest)
        np.minimum.at(found, answers.rows, answers.numbers("edge_key", np.int64))
        return np.where(found == highest, -1, found)

    def edge_columns(
        self, edge_keys: Any, names: Sequence[str], *, dst: Any = None, by: Naming = "original_id"
    ) -> dict[str, NDArray[Any]]:
        """Return columns of edges.

        Args:
            edge_keys: R keys.
            names: Such as `attr`, `type`.
            dst: Their destinations, in whose lists they are looked up; without, every server looks
                through all its edges, at some hundred million a second.
            by: What `dst` are.

        Shape:
            Returns (R,) or (R, width) each.
        """
        keys, names = integers(edge_keys, "edge keys"), list(names)
        if dst is None:
            everyone = range(self.manifest.num_parts)
            jobs = [
                (
                    link,
                    messages.EdgeColumnsRequest(edges=encoded(edge_key=keys[rows]), columns=names),
                    rows,
                )
                for link in dict.fromkeys(self._router.links[part] for part in everyone)
                for rows in self._asker.bounded(np.arange(len(keys)))
            ]
            answers = self._asker.ask("EdgeColumns", jobs)
        else:
            nodes = self.new_ids(dst, by)
            if len(nodes) != len(keys):
                raise ConfigError(
                    f"edge columns: expected as many destinations as keys, got {len(nodes):,} and "
                    f"{len(keys):,}."
                )
            answers = self._asker.at_lists(
                "EdgeColumns",
                nodes,
                lambda rows, in_degree=None, **part: messages.EdgeColumnsRequest(
                    edges=encoded(edge_key=keys[rows], dst=nodes[rows], **part), columns=names
                ),
            )
        missing = np.setdiff1d(np.arange(len(keys)), answers.rows)
        if len(missing) and names:
            raise GraphFormatError(
                f"edge columns: expected keys of edges of the graph, got {keys[missing[0]]}"
                f"{' to that destination' if dst is not None else ''}. Look up others."
            )
        specs = self.manifest.edge_columns
        return {n: answers.placed(n, len(keys), self._router.type_of(n, specs)) for n in names}

    # -- prediction -------------------------------------------------------------------------------

    def predict(self, ids: Any, by: Naming = "original_id") -> dict[str, NDArray[Any]]:
        """Return a trained model's predictions of nodes, of a server that has one.

        Shape:
            Returns prediction and probability, (R,) or (R, width) each.
        """
        if self._router.predicts is None:
            raise ConfigError("predict: no server has a run. Start one with --run.")
        new_ids = self.new_ids(ids, by)
        jobs = [
            (
                self._router.predicts,
                messages.PredictRequest(nodes=encoded(new_id=new_ids[rows])),
                rows,
            )
            for rows in self._asker.bounded(np.arange(len(new_ids)))
        ]
        answers = self._asker.ask("Predict", jobs)
        found = answers.tables[0][1].schema.names if jobs else []
        names = [name.removeprefix(COLUMN) for name in found if name != "row"]
        return {n: answers.placed(n, len(new_ids), pa.float32()) for n in names}

    def _all_columns(self, names: list[str]) -> dict[str, NDArray[Any]]:
        wanted, router = list(dict.fromkeys([*names, "node_key"])), self._router
        jobs = []
        for part, link in enumerate(router.links):
            first, count = int(router.first_new_id[part]), int(router.counts[0][part])
            for start in range(first, first + count, router.max_ids):
                span = messages.Range(first=start, count=min(router.max_ids, first + count - start))
                request = messages.NodeColumnsRequest(range=span, columns=wanted)
                jobs.append((link, request, np.arange(start, start + span.count)))
        answers = self._asker.ask("NodeColumns", jobs)
        keys = answers.numbers(COLUMN + "node_key", np.int64)
        cuts = np.cumsum([len(rows) for rows, _ in answers.tables])[:-1]
        tables = zip(np.split(keys, cuts), (t for _, t in answers.tables), strict=False)
        placed = Answers(list(tables) if len(answers.tables) else [], [])
        return {n: placed.placed(n, self.num_nodes, router.type_of(n)) for n in names}

    def _lists(
        self,
        answers: Answers,
        num_rows: int,
        names: list[str],
        draw: messages.Draw | None,
        *,
        in_order: bool,
    ) -> Neighbours:
        row, edge_key = answers.rows, answers.numbers("edge_key", np.int64)
        if draw is not None and draw.weight and len(row):
            rank, number = answers.numbers("rank", float), answers.numbers("draw", np.int32)
            chosen = best_drawn(row, rank, number, draw.fanout, replace=draw.replace)
            chosen = chosen[np.lexsort((edge_key[chosen], row[chosen]))]
        elif in_order:  # each list is of one part, which sent it sorted
            chosen = np.argsort(row, kind="stable")
        else:
            chosen = np.lexsort((edge_key, row))
        specs = self.manifest.edge_columns
        columns = {}
        for name in names:
            array = pa.concat_arrays(
                [pa.array([], self._router.type_of(name, specs)), *answers.arrays(name)]
            )
            columns[name] = filled(array.take(pa.array(chosen)))
        return Neighbours(
            np.append(0, np.cumsum(np.bincount(row[chosen], minlength=num_rows))),
            answers.numbers("node", np.int64)[chosen],
            answers.numbers("node_key", np.int64)[chosen],
            edge_key[chosen],
            columns,
        )


def _draw(
    fanout: int, replace: bool, weight: str | None, seed: int, step: int, layer: int
) -> messages.Draw:
    try:
        return messages.Draw(
            fanout=fanout, replace=replace, weight=weight or "", seed=seed, step=step, layer=layer
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"draw: expected a fanout and a layer >= 0, and a seed and a step of 64 bits, got "
            f"{error}. Correct them."
        ) from None
