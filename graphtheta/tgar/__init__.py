"""The NN-TGAR abstraction: layers as five stages, traced, differentiated and executed."""

from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator
from graphtheta.tgar.between import Between
from graphtheta.tgar.block import Block, Fanout
from graphtheta.tgar.degrees import Degrees
from graphtheta.tgar.ends import Ends
from graphtheta.tgar.layer import TGARLayer, count_layers
from graphtheta.tgar.marks import Marks
from graphtheta.tgar.neighbourhood import Neighbourhoods
from graphtheta.tgar.trace import keep
from graphtheta.tgar.view import LayerView, View

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
