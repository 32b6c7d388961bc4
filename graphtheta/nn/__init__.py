"""Layers and models written in NN-TGAR, losses, normalisation and dropout."""

from graphtheta.nn.conv import (
    LAYERS,
    GATConv,
    GATEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.init import seeded
from graphtheta.nn.losses import LOSSES
from graphtheta.nn.models import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    MODELS,
    RGCN,
    GATv2,
    GraphSAGE,
    GraphTransformer,
    model_for,
)
from graphtheta.nn.norm import BatchNorm
from graphtheta.nn.stack import Stack
from graphtheta.tgar import TGARLayer, keep

__all__ = [
    "GAT",
    "GATE",
    "GCN",
    "GIN",
    "GIPA",
    "LAYERS",
    "LOSSES",
    "MODELS",
    "RGCN",
    "BatchNorm",
    "Dropout",
    "GATConv",
    "GATEConv",
    "GATv2",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "GIPAConv",
    "GraphSAGE",
    "GraphTransformer",
    "RGCNConv",
    "SAGEConv",
    "Stack",
    "TGARLayer",
    "TransformerConv",
    "keep",
    "model_for",
    "seeded",
]
