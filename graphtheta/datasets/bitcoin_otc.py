"""Reader of Bitcoin OTC: trust ratings between users of a trading platform, some of them frauds.

Nodes are users with their original numbers. An edge is a rating, from the rater to the rated user,
with `attr` = (rating / 10, time scaled to [0, 1]). Label `y` is whether a user is a fraud; most
users have none. Features are computed from the ratings only. As the people who labelled the users
may have used the ratings too, a high score does not show that frauds can be found elsewhere.

Sources: Kumar, Spezzano, Subrahmanian, Faloutsos, "Edge weight prediction in weighted signed
networks", ICDM 2016 (ratings). Kumar, Hooi, Makhija, Kumar, Faloutsos, Subrahmanian, "REV2:
fraudulent user prediction in rating platforms", WSDM 2018 (labels).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column, node_table, refuse
from graphtheta.datasets.splits import random_split

__all__ = ["FEATURES", "read", "recognises"]

FEATURES = (
    "log(1 + ratings given)",
    "log(1 + ratings received)",
    "mean rating given / 10",
    "mean rating received / 10",
    "share of negative ratings given",
    "share of negative ratings received",
    "time of first rating given or received",
    "time of last rating given or received",
)

_RATINGS = "soc-sign-bitcoinotc.csv"
_LABELS = "otc_gt.csv"


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with the ratings and the labels."""
    return (Path(path) / _RATINGS).is_file() and (Path(path) / _LABELS).is_file()


def read(path: str, *, seed: int = 0) -> Graph:
    """Read the folder of ratings and labels.

    Args:
        path: Folder with `soc-sign-bitcoinotc.csv` (from, to, rating, seconds; with or without a
            header line) and `otc_gt.csv` (user, +1 or -1).
        seed: Random seed of the split: 60 % of the frauds and of the others are for training, 20 %
            for validation, 20 % for test.

    Returns:
        The graph, with boolean label `y`, null where unknown, and split `split`.

    Raises:
        GraphFormatError: If a file is damaged.
    """
    ratings = _table(Path(path) / _RATINGS, ["from", "to", "rating", "time"])
    known = _table(Path(path) / _LABELS, ["user", "sign"])
    ends = np.stack([ratings["from"].to_numpy(), ratings["to"].to_numpy()]).astype(np.int64)
    users, keys = np.unique(ends, return_inverse=True)
    src, dst = keys.reshape(ends.shape)
    rating = ratings["rating"].to_numpy().astype(np.float64) / 10
    time = ratings["time"].to_numpy().astype(np.float64)
    time = (time - time.min()) / max(float(np.ptp(time)), 1.0)

    sign = known["sign"].take(pc.index_in(pa.array(users), known["user"].combine_chunks()))
    fraud = np.asarray(pc.less(sign, 0).fill_null(False))
    unknown = np.asarray(sign.is_null())
    classes = np.where(unknown, -1, fraud)
    split = random_split(len(users), classes, train=0.6, val=0.2, seed=seed, per_class=True)
    features = _features(len(users), src, dst, rating, time)
    nodes = node_table(users, features, pa.array(fraud, mask=unknown), split)
    attr = matrix_column(np.stack([rating, time], axis=1).astype(np.float32))
    return Graph(nodes, pa.table({"src": src, "dst": dst, "attr": attr}))


def _features(
    num_nodes: int,
    src: NDArray[np.int64],
    dst: NDArray[np.int64],
    rating: NDArray[np.float64],
    time: NDArray[np.float64],
) -> NDArray[np.float32]:
    def mean(end: NDArray[np.int64], value: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.bincount(end, value, num_nodes)
        return np.asarray(total / np.maximum(np.bincount(end, minlength=num_nodes), 1))

    negative = (rating < 0).astype(np.float64)
    first, last = np.ones(num_nodes), np.zeros(num_nodes)
    for end in (src, dst):
        np.minimum.at(first, end, time)
        np.maximum.at(last, end, time)
    columns = [
        np.log1p(np.bincount(src, minlength=num_nodes)),
        np.log1p(np.bincount(dst, minlength=num_nodes)),
        mean(src, rating),
        mean(dst, rating),
        mean(src, negative),
        mean(dst, negative),
        first,
        last,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _table(path: Path, names: list[str]) -> pa.Table:
    try:
        with path.open("rb") as file:
            header = not file.read(1).isdigit()
        return pyarrow.csv.read_csv(
            path, pyarrow.csv.ReadOptions(column_names=names, skip_rows=int(header))
        )
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise refuse(str(path), f"columns {', '.join(names)}", reason, "Fetch it again.") from None
