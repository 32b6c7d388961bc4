"""Groups of workers: each group holds the whole graph and computes on its own micro-batches."""

from __future__ import annotations

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.wording import counted

__all__ = ["Groups"]


class Groups:
    """Division of the workers of a job into groups of consecutive ranks; collective.

    Args:
        world: All workers.
        number: Number of groups, which divides the number of workers.

    Attributes:
        world: All workers.
        number: Number of groups.
        index: Index of the group of this worker.
        comm: The workers of this group, which share the graph.
        across: The workers with the same rank in their groups, in the order of the groups. They
            hold the same shard.

    Raises:
        ConfigError: If `number` does not divide the number of workers.
    """

    def __init__(self, world: Communicator, number: int = 1) -> None:
        if number < 1 or world.size % number:
            raise ConfigError(
                f"groups: expected a number that divides {counted(world.size, 'worker')}, "
                f"got {number}. "
                "Change the number of workers or of groups."
            )
        self.world, self.number = world, number
        size = world.size // number
        self.index = world.rank // size
        if number == 1:
            self.comm = world
            self.across: Communicator = SingleCommunicator(
                timeout_s=world.timeout_s, check=world.check
            )
        else:
            self.comm = world.split(self.index)
            self.across = world.split(world.rank % size)

    def __repr__(self) -> str:
        return f"Groups(index={self.index}/{self.number}, comm={self.comm})"
