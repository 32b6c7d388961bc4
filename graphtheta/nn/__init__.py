"""Graph layers, models, decoders, losses, normalisation and dropout."""

from graphtheta.nn.conv import (
    LAYERS,
    GATConv,
    GATEConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from graphtheta.nn.decoders import (
    DECODERS,
    MLP,
    Bilinear,
    Decoder,
    DistMult,
    Dot,
    EdgeModel,
    decoder_for,
)
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.embedding import NodeEmbedding
from graphtheta.nn.init import seeded
from graphtheta.nn.losses import LOSSES
from graphtheta.nn.models import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    MODELS,
    RGAT,
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
    "DECODERS",
    "GAT",
    "GATE",
    "GCN",
    "GIN",
    "GIPA",
    "LAYERS",
    "LOSSES",
    "MLP",
    "MODELS",
    "RGAT",
    "RGCN",
    "BatchNorm",
    "Bilinear",
    "Decoder",
    "DistMult",
    "Dot",
    "Dropout",
    "EdgeModel",
    "GATConv",
    "GATEConv",
    "GATv2",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "GIPAConv",
    "GraphSAGE",
    "GraphTransformer",
    "NodeEmbedding",
    "RGATConv",
    "RGCNConv",
    "SAGEConv",
    "Stack",
    "TGARLayer",
    "TransformerConv",
    "decoder_for",
    "keep",
    "model_for",
    "seeded",
]
