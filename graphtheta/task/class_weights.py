"""Classes by name: their counts and weights in training, and the one that metrics are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.runtime.numbers import need_real
from graphtheta.wording import counted, some

__all__ = ["RARE", "ClassWeight", "class_counts", "class_weights", "positive_class"]

ClassWeight: TypeAlias = (
    Literal["balanced"] | Mapping[Any, float] | Sequence[float] | NDArray[Any] | Tensor
)

RARE = 0.1  # share of the training targets below which a class is rare

_WHERE = "class weight (--class-weight)"


def class_counts(target: Tensor, spec: LabelSpec, comm: Communicator) -> NDArray[np.int64] | None:
    """Return how often each class is a target, over all workers; None for numbers; collective.

    Shape:
        target: (T,) or (T, K). Returns (C,); (2,) of a binary label, no and yes; (K, 2) of a
        multi-label, whose unknown entries do not count.
    """
    if spec.task == "regression":
        return None
    if spec.task == "multilabel":
        counts = torch.stack([(target == 0).sum(0), (target > 0).sum(0)], dim=1)
    else:
        counts = torch.bincount(target.reshape(-1).long(), minlength=spec.num_classes)
    array: NDArray[np.int64] = counts.cpu().numpy()
    comm.all_reduce(array, stage="count classes")
    return array


def class_weights(given: ClassWeight, spec: LabelSpec, counts: NDArray[np.int64] | None) -> Tensor:
    """Return the weight of each class.

    Balanced weights are n / (classes * count), so that all classes that occur count the same and
    the mean weight of the targets is 1.

    Args:
        given: "balanced"; weights by the name or number of the class, 1 for others; or one weight
            for each class. Those of a multi-label are the weights of its positive entries.
        spec: Label.
        counts: Result of `class_counts` for the training targets.

    Shape:
        Returns (C,), (2,) or (K, 2) float64, as `class_counts`.

    Raises:
        ConfigError: If the label has no classes, or a class or weight is wrong.
    """
    if counts is None:
        raise ConfigError(
            f"{_WHERE}: expected a label of classes, got one of numbers. Leave it out, or weigh "
            "rows by a column (--loss-weight)."
        )
    if isinstance(given, str):
        if given != "balanced":
            raise ConfigError(
                f"{_WHERE}: expected balanced, or weights such as fraud=20,ok=1, got '{given}'. "
                "Correct it."
            )
        occurring = (counts > 0).sum(axis=-1, keepdims=True)
        total = counts.sum(axis=-1, keepdims=True)
        balanced = total / (occurring * np.maximum(counts, 1)).clip(1)
        return torch.from_numpy(np.where(counts > 0, balanced, 1.0))
    weights = np.ones(counts.shape)
    each = weights[:, 1] if spec.task == "multilabel" else weights  # a view
    if isinstance(given, Mapping):
        for name, weight in given.items():
            what = f"{_WHERE} of {name!s:.50}"
            each[_number_of(name, spec, _WHERE)] = need_real(weight, what, is_positive=False)
    else:
        if len(given) != len(each):
            raise ConfigError(
                f"{_WHERE}: expected {counted(len(each), 'weight')}, one for each class, got "
                f"{len(given)}. Correct them."
            )
        each[:] = [need_real(float(weight), _WHERE, is_positive=False) for weight in given]
    return torch.from_numpy(weights)


def positive_class(
    spec: LabelSpec, counts: NDArray[np.int64] | None, given: str | int | None
) -> int:
    """Return the number of the class that metrics of two classes are about.

    It is class 1, yes of a yes-or-no label; or class 0 of two classes if only that is rare.

    Args:
        spec: Label.
        counts: Result of `class_counts` for the training targets.
        given: Name or number of the class, if it was chosen.

    Raises:
        ConfigError: If there is no such class, or the label has other than two.
    """
    where = "positive class (--positive)"
    if given is not None:
        if spec.num_classes != 2 or spec.task not in ("binary", "multiclass"):
            raise ConfigError(
                f"{where}: expected a label of two classes, got a {spec.task} label. Leave it out."
            )
        return _number_of(given, spec, where)
    is_two = spec.task == "multiclass" and spec.num_classes == 2
    return 0 if is_two and counts is not None and counts[0] < RARE * counts.sum() else 1


def _number_of(name: object, spec: LabelSpec, where: str) -> int:
    """Return the number of a class, given by its name or number."""
    names = list(spec.classes or ())
    if spec.task == "binary" and not names:
        names = ["false", "true"]
        name = str(name).lower() if isinstance(name, str | bool) else name
    if name in names:
        return names.index(str(name))
    text = str(name)
    if text.isdecimal() and int(text) < spec.num_classes:
        return int(text)
    known = some(names, len(names)) if names else f"numbers from 0 to {spec.num_classes - 1}"
    raise ConfigError(
        f"{where}: expected classes of the label ({known}), got {name!r:.100}. Correct it."
    )
