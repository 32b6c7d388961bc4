"""Graph layers, models, decoders, losses, normalisation and dropout."""

from graphtheta.nn.by_name import MODELS, NORMALISED, model_for
from graphtheta.nn.column_embedding import ColumnEmbedding
from graphtheta.nn.conv import (
    LAYERS,
    GATConv,
    GATEConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GINConv,
    GIPAConv,
    HANConv,
    HGTConv,
    PNAConv,
    PropagateConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    SimpleHGNConv,
    TransformerConv,
    degree_histogram,
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
from graphtheta.nn.deep_models import APPNP, GCNII, SGC, SIGN
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.embedding import NodeEmbedding
from graphtheta.nn.hetero import HeteroConv, to_hetero
from graphtheta.nn.init import seeded
from graphtheta.nn.losses import LOSSES, NAMED_LOSSES
from graphtheta.nn.models import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    PNA,
    RGAT,
    RGCN,
    GATv2,
    GraphSAGE,
    GraphTransformer,
)
from graphtheta.nn.norm import BatchNorm
from graphtheta.nn.stack import Stack
from graphtheta.nn.typed_input import TypedInput
from graphtheta.nn.typed_linear import TypedLinear
from graphtheta.nn.typed_models import HAN, HGT, SimpleHGN
from graphtheta.tgar import TGARLayer, keep

__all__ = [
    "APPNP",
    "DECODERS",
    "GAT",
    "GATE",
    "GCN",
    "GCNII",
    "GIN",
    "GIPA",
    "HAN",
    "HGT",
    "LAYERS",
    "LOSSES",
    "MLP",
    "MODELS",
    "NAMED_LOSSES",
    "NORMALISED",
    "PNA",
    "RGAT",
    "RGCN",
    "SGC",
    "SIGN",
    "BatchNorm",
    "Bilinear",
    "ColumnEmbedding",
    "Decoder",
    "DistMult",
    "Dot",
    "Dropout",
    "EdgeModel",
    "GATConv",
    "GATEConv",
    "GATv2",
    "GATv2Conv",
    "GCN2Conv",
    "GCNConv",
    "GINConv",
    "GIPAConv",
    "GraphSAGE",
    "GraphTransformer",
    "HANConv",
    "HGTConv",
    "HeteroConv",
    "NodeEmbedding",
    "PNAConv",
    "PropagateConv",
    "RGATConv",
    "RGCNConv",
    "SAGEConv",
    "SimpleHGN",
    "SimpleHGNConv",
    "Stack",
    "TGARLayer",
    "TransformerConv",
    "TypedInput",
    "TypedLinear",
    "decoder_for",
    "degree_histogram",
    "keep",
    "model_for",
    "seeded",
    "to_hetero",
]
