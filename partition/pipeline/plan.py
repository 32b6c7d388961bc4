"""Options of a partitioning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.partition.core.partitioner import Balance, Partitioner
from graphtheta.partition.methods.registry import PARTITIONERS
from graphtheta.partition.placement.cover import MOST_MERGE_WEIGHT

__all__ = ["PLACEMENTS", "Plan", "named_partitioner"]

PLACEMENTS = ("method", "cover")


def named_partitioner(method: str) -> Partitioner:
    """Return the partitioner with the name `method`.

    Raises:
        ConfigError: If it does not exist.
    """
    need_name(method, PARTITIONERS, "partitioner (--method)")
    return PARTITIONERS[method]


@dataclass(frozen=True, slots=True)
class Plan:
    """Options of a partitioning. The store depends on the graph and these options only.

    Attributes:
        num_parts: Number of parts (P), at most the number of nodes.
        method: Name of the partitioner, a key of `PARTITIONERS`.
        seed: Seed of the partitioner.
        undirected: Whether to add the reverse of every edge that is not a self-loop.
        self_loops: Whether to keep edges from a node to itself.
        repeats: Whether to keep duplicate edges: same source, destination and, if the graph has a
            column `type`, same type as an earlier edge.
        drop_unknown: Whether to drop edges with an id that the node table lacks, which are an error
            otherwise.
        balance: Limits on the imbalance of the parts.
        balance_split: Name of the split whose training nodes `balance.train` limits.
        placement: Where edges are stored: `"method"`, where the partitioner puts them, which for an
            edge-cut is with their destination; or `"cover"`, for the nodes of an edge-cut, where
            the fewest rows are exchanged (see `graphtheta.partition.placement.cover`).
        merge_weight: For `"cover"`, how many syncs a merge is worth, from 1.
    """

    num_parts: int
    method: str = "node-hash"
    seed: int = 0
    undirected: bool = False
    self_loops: bool = True
    repeats: bool = True
    drop_unknown: bool = False
    balance: Balance = field(default_factory=Balance)
    balance_split: str = "split"
    placement: str = "method"
    merge_weight: float = 1.25

    def __post_init__(self) -> None:
        named_partitioner(self.method)
        if self.num_parts < 1:
            raise ConfigError(
                f"partition: expected at least one part, got {self.num_parts}. Use more parts."
            )
        need_name(self.placement, PLACEMENTS, "placement of edges (--placement)")
        if not self.covers:
            return
        if self.partitioner.cut == "vertex":
            able = ", ".join(name for name, of in PARTITIONERS.items() if of.cut == "edge")
            raise ConfigError(
                "partition: expected a partitioner of nodes with --placement cover, got "
                f"{self.method}, which places edges itself. Choose one of {able}, or omit "
                "--placement."
            )
        if self.balance.edges is not None:
            raise ConfigError(
                "partition: expected no limit on the balance of edges with --placement cover, "
                "which moves edges after the partitioner has balanced them, got "
                f"{self.balance.edges:g}. Omit --balance-edges or --placement."
            )
        if not 1 <= self.merge_weight <= MOST_MERGE_WEIGHT:
            raise ConfigError(
                f"partition: expected a weight of merges (--merge-weight) from 1 to "
                f"{MOST_MERGE_WEIGHT}, got {self.merge_weight:g}. Use 1 for the fewest rows."
            )

    @property
    def partitioner(self) -> Partitioner:
        """The partitioner of the plan."""
        return named_partitioner(self.method)

    @property
    def covers(self) -> bool:
        """Whether edges are placed by minimum vertex covers."""
        return self.placement == "cover"

    @property
    def cut(self) -> Literal["edge", "vertex"]:
        """`"edge"` if every edge is stored with its destination, `"vertex"` otherwise."""
        return "vertex" if self.covers else self.partitioner.cut
