"""The NN-TGAR abstraction: layers as five stages, traced, differentiated and executed."""

from graphtheta.exchange.remote_rows import RemoteRows
from graphtheta.shard.parallel_edges import ParallelEdges
from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator, Moments, Several
from graphtheta.tgar.batch.block import Block, Degrees, Fanout
from graphtheta.tgar.batch.boundary import Boundary
from graphtheta.tgar.batch.neighbourhood import Neighbourhoods
from graphtheta.tgar.batch.view import LayerView, View
from graphtheta.tgar.check_aggregator import check_aggregator
from graphtheta.tgar.layer import TGARLayer, count_layers
from graphtheta.tgar.mixed_precision import refuse_mixed_precision
from graphtheta.tgar.trace import keep
from graphtheta.tgar.view_module import ViewModule, refuse_compiled
from graphtheta.tgar.worker_independent import WorkerIndependent

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Block",
    "Boundary",
    "Degrees",
    "Fanout",
    "LayerView",
    "Moments",
    "Neighbourhoods",
    "ParallelEdges",
    "RemoteRows",
    "Several",
    "TGARLayer",
    "View",
    "ViewModule",
    "WorkerIndependent",
    "check_aggregator",
    "count_layers",
    "keep",
    "refuse_compiled",
    "refuse_mixed_precision",
]
