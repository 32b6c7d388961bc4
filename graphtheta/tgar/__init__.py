"""The NN-TGAR abstraction: layers as five stages, traced, differentiated and executed."""

from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator
from graphtheta.tgar.layer import TGARLayer
from graphtheta.tgar.trace import keep
from graphtheta.tgar.view import LayerView, View

__all__ = ["AGGREGATORS", "Aggregator", "LayerView", "TGARLayer", "View", "keep"]
