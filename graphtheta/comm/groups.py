"""Groups of workers: each holds the whole graph, and computes on batches of its own."""

from __future__ import annotations

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError

__all__ = ["Groups"]


class Groups:
    """The workers of a job, in groups of neighbouring ranks; collective.

    Args:
        world: All workers.
        number: Of groups; they are of one size.

    Attributes:
        world: All workers.
        number: Of groups.
        index: Which of them this worker is in.
        comm: The workers of this group, who share the graph among them.
        across: The worker of each group, in order, that has this one's rank in it: they hold the
            same share.

    Raises:
        ConfigError: If the workers cannot be divided like that.
    """

    def __init__(self, world: Communicator, number: int = 1) -> None:
        if number < 1 or world.size % number:
            raise ConfigError(
                f"groups: expected a number that divides {world.size} workers, got {number}. "
                "Start another number of workers, or make other groups."
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
