"""Graph layers written in NN-TGAR, whose code describes one node and one edge."""

from graphtheta.nn.conv.gat import GATConv, GATEConv, GATv2Conv
from graphtheta.nn.conv.gcn import GCN2Conv, GCNConv, PropagateConv
from graphtheta.nn.conv.gin import GINConv
from graphtheta.nn.conv.gipa import GIPAConv
from graphtheta.nn.conv.han import HANConv
from graphtheta.nn.conv.hgt import HGTConv
from graphtheta.nn.conv.pna import PNAConv, degree_histogram
from graphtheta.nn.conv.rgat import RGATConv
from graphtheta.nn.conv.rgcn import RGCNConv
from graphtheta.nn.conv.sage import SAGEConv
from graphtheta.nn.conv.simple_hgn import SimpleHGNConv
from graphtheta.nn.conv.transformer import TransformerConv
from graphtheta.tgar import TGARLayer

__all__ = [
    "LAYERS",
    "GATConv",
    "GATEConv",
    "GATv2Conv",
    "GCN2Conv",
    "GCNConv",
    "GINConv",
    "GIPAConv",
    "HANConv",
    "HGTConv",
    "PNAConv",
    "PropagateConv",
    "RGATConv",
    "RGCNConv",
    "SAGEConv",
    "SimpleHGNConv",
    "TransformerConv",
    "degree_histogram",
]

LAYERS: dict[str, type[TGARLayer]] = {
    "gcn": GCNConv,
    "gcnii": GCN2Conv,
    "pna": PNAConv,
    "sage": SAGEConv,
    "gat": GATConv,
    "gatv2": GATv2Conv,
    "gin": GINConv,
    "gat-e": GATEConv,
    "rgcn": RGCNConv,
    "rgat": RGATConv,
    "transformer": TransformerConv,
    "gipa": GIPAConv,
    "hgt": HGTConv,
    "simple-hgn": SimpleHGNConv,
}
