"""Names in the registries, for help texts.

The registries import torch or Numba, which takes seconds; help is printed without them. A test
checks that the names are those of the registries.
"""

from __future__ import annotations

__all__ = ["NAMES", "names"]

NAMES: dict[str, tuple[str, ...]] = {
    "communities": ("louvain", "leiden", "multilevel"),
    "datasets": ("cora",),
    "decoders": ("dot", "mlp", "distmult", "bilinear"),
    "encoders": (
        *("number", "standard", "minmax", "log", "quantile"),
        *("onehot", "hash", "count", "embedding", "indices", "age", "cyclic"),
    ),
    "exporters": ("dgl", "dgl-chunked", "pyg"),
    "kernels": ("sum", "weighted-sum", "mean", "max", "gat", "gatv2", "gat-e"),
    "losses": ("cross-entropy", "focal", "mse", "mae", "huber"),
    "metrics": (
        *("auroc", "average_precision", "accuracy", "balanced_accuracy", "f1", "macro_f1"),
        *("precision", "recall", "specificity", "mcc", "brier", "ece"),
        *("rmse", "mse", "mae", "r2"),
    ),
    "methods": (
        *("node-hash", "range", "ldg", "fennel", "lpa", "kaminpar", "metis"),
        *("edge-hash", "grid", "dbh", "hdrf", "2ps-l", "hep"),
    ),
    "models": (
        "gcn",
        "sage",
        "gat",
        "gatv2",
        "gin",
        "gat-e",
        "rgcn",
        "rgat",
        "transformer",
        "gipa",
        "hgt",
        "han",
        "simple-hgn",
        "appnp",
        "gcnii",
        "sgc",
        "sign",
        "pna",
    ),
    "optimizers": ("sgd", "adam", "adamw"),
    "readers": (
        *("planetoid", "bitcoin-otc", "wordnet", "openke", "graphsaint", "musae"),
        *("npz", "typed-tables", "relbench", "ogb", "graphstorm", "tables", "edge-list"),
    ),
    "schedules": ("constant", "step", "cosine", "linear", "wsd"),
    "strategies": ("global", "mini", "cluster"),
    "tasks": ("node", "edge", "link"),
}


def names(registry: str) -> str:
    """Return the names in a registry, separated by commas."""
    return ", ".join(NAMES[registry])
