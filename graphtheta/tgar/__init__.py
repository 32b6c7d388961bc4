"""The NN-TGAR abstraction: layers as five stages, traced, differentiated and executed."""

from graphtheta.exchange.remote_rows import Ends
from graphtheta.shard.parallel_edges import Between
from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator
from graphtheta.tgar.batch.block import Block, Fanout
from graphtheta.tgar.batch.boundary import Marks
from graphtheta.tgar.batch.degrees import Degrees
from graphtheta.tgar.batch.neighbourhood import Neighbourhoods
from graphtheta.tgar.batch.view import LayerView, View
from graphtheta.tgar.layer import TGARLayer, count_layers
from graphtheta.tgar.trace import keep

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Between",
    "Block",
    "Degrees",
    "Ends",
    "Fanout",
    "LayerView",
    "Marks",
    "Neighbourhoods",
    "TGARLayer",
    "View",
    "count_layers",
    "keep",
]
