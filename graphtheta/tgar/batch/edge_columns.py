"""Edge columns of a block, selected when they are first read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from torch import Tensor

__all__ = ["EdgeColumns"]


class EdgeColumns(MutableMapping[str, Tensor]):
    """Mapping from a name to the edge column of a block: (E, ...), in CSC order.

    To differentiate with respect to a column, replace it by a tensor that requires grad.

    Args:
        whole: Columns of more edges than those of the block, in CSC order.
        index: (E,) int64 positions of the block's edges among those. If None, they are the same.

    Attributes:
        whole: The columns, or what replaced them.
    """

    def __init__(self, whole: Mapping[str, Tensor], index: Tensor | None) -> None:
        self.whole, self._index = dict(whole), index
        self._selected: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._selected:
            column, index = self.whole[name], self._index
            self._selected[name] = column if index is None else column.index_select(0, index)
        return self._selected[name]

    def __setitem__(self, name: str, column: Tensor) -> None:
        self._selected[name] = self.whole[name] = column

    def __delitem__(self, name: str) -> None:
        del self.whole[name]
        self._selected.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)
