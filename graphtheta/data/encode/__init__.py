"""Encoders of a user's columns as features, fitted to the training rows.

Pass them by name, as in `features="age:standard,city:hash(64)"`, or as objects, as in
`features={"age": gt.encode.Standard(), "city": gt.encode.Hash(64)}`.
"""

from graphtheta.data.encode.categorical import Count, Embedding, Hash, Indices, OneHot
from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.numeric import Log, MinMax, Number, Standard
from graphtheta.data.encode.quantile import Quantile
from graphtheta.data.encode.registry import ENCODERS
from graphtheta.data.encode.times import Age, Cyclic

__all__ = [
    "ENCODERS",
    "Age",
    "Count",
    "Cyclic",
    "Embedding",
    "Encoder",
    "Hash",
    "Indices",
    "Log",
    "MinMax",
    "Number",
    "OneHot",
    "Quantile",
    "Standard",
]
