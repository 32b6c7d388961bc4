"""Encoders of times and dates.

Times with a time zone are read in that zone, which is part of the recipe: later tables may have
another zone, but not none. Differences are of int64 ticks, so that nanoseconds are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.encode.encoder import Encoder
from graphtheta.data.encode.numeric import Scaled
from graphtheta.data.encode.statistics import Moments
from graphtheta.data.schema import refuse

__all__ = ["PARTS", "Age", "Cyclic", "is_time"]

_TICKS = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}
_DAY = 86_400


def is_time(kind: pa.DataType) -> bool:
    """Return whether values of a type are dates, or dates with a time of day."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _unit_and_zone(kind: pa.DataType) -> tuple[str, str | None]:
    return ("s", None) if pa.types.is_date(kind) else (kind.unit, kind.tz)


class _Times(Encoder):
    """What encoders of times have in common.

    Attributes:
        unit: Unit of the ticks when the encoder was fitted: `s`, `ms`, `us` or `ns`.
        zone: Time zone; None for times without one.
    """

    takes: ClassVar[str] = "times or dates"
    unit: str | None = None
    zone: str | None = None

    def accepts(self, kind: pa.DataType) -> bool:
        return is_time(kind)

    def statistics(self) -> Moments:
        return Moments()

    @property
    def blank(self) -> pa.DataType:
        return pa.timestamp(self.unit, self.zone)

    def times(self, array: pa.Array, where: str) -> pa.Array:
        """Return times in the unit and zone of the recipe.

        Raises:
            GraphFormatError: If only one of them has a zone, or a time is out of range.
        """
        _, zone = _unit_and_zone(array.type)
        if (zone is None) != (self.zone is None):
            raise refuse(
                where,
                f"times {_zone_text(self.zone)}, as those that the encoding was fitted to",
                f"times {_zone_text(zone)}",
                "Convert the column.",
            )
        target = pa.timestamp(self.unit, self.zone)
        try:
            return array.cast(options=pc.CastOptions(target, allow_time_truncate=True))
        except pa.ArrowInvalid as error:
            got = str(error).splitlines()[0].rstrip(".")
            raise refuse(where, f"times that {target} holds", got, "Correct them.") from None


def _zone_text(zone: str | None) -> str:
    return "without a time zone" if zone is None else f"of the time zone {zone}"


class Age(_Times, Scaled):
    """Time before the latest training row, scaled as in `Standard`; later times are negative.

    Attributes:
        latest: The latest time of the training rows, in ticks.
    """

    name: ClassVar[str] = "age"
    takes: ClassVar[str] = "times or dates"
    latest: int = 0

    def fit(self, found: Moments, kind: pa.DataType, where: str) -> Self:
        fitted = super().fit(found, kind, where)
        unit, zone = _unit_and_zone(kind)
        if not found.moments()[1]:  # one time only: another one is so many days away
            fitted = fitted.model_copy(update={"scale": float(_DAY * _TICKS[unit])})
        update = {"unit": unit, "zone": zone, "latest": int(found.high or 0)}
        return fitted.model_copy(update=update)

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any]:
        return super().encode(self.times(array, where), value, where, first_row)

    def scaled(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return -super().scaled(values)

    def summary(self) -> str:
        latest = pa.scalar(self.latest, pa.timestamp(self.unit, self.zone))
        day = _DAY * _TICKS[str(self.unit)]
        mean, deviation = (self.latest - self.centre) / day, self.scale / day
        return (
            f"days before {latest.cast(pa.string())}, mean {mean:g}, "
            f"standard deviation {deviation:g}"
        )


def _hour(times: pa.Array) -> NDArray[np.float64]:
    """Return the share of the day that has passed."""
    local = pc.local_timestamp(times) if times.type.tz else times
    start = pc.floor_temporal(local, unit="day")
    ticks = pc.subtract(local.cast(pa.int64()), start.cast(pa.int64()))
    seconds = ticks.to_numpy(zero_copy_only=False).astype(np.float64) / _TICKS[times.type.unit]
    return np.asarray(seconds / _DAY)


def _weekday(times: pa.Array) -> NDArray[np.float64]:
    return np.asarray(pc.day_of_week(times).to_numpy(zero_copy_only=False) / 7)


def _month(times: pa.Array) -> NDArray[np.float64]:
    day = pc.subtract(pc.day(times), 1).to_numpy(zero_copy_only=False)
    return np.asarray(day / 31)


def _year(times: pa.Array) -> NDArray[np.float64]:
    day = pc.subtract(pc.day_of_year(times), 1).to_numpy(zero_copy_only=False)
    return np.asarray(day / 365.25)


PARTS: dict[str, Callable[[pa.Array], NDArray[np.float64]]] = {
    "hour": _hour,
    "weekday": _weekday,
    "month": _month,
    "year": _year,
}


class Cyclic(_Times):
    """Sine and cosine of the time of day, the weekday, the day of the month or that of the year.

    A missing time is 0 in all columns.

    Attributes:
        parts: Keys of `PARTS`. If empty, the weekday and the year, and the hour unless the column
            has dates.
    """

    name: ClassVar[str] = "cyclic"
    parts: tuple[str, ...] = ()

    def __init__(self, *parts: str, **fitted: Any) -> None:
        given = parts or tuple(fitted.pop("parts", ()))
        for part in given:
            if part not in PARTS:
                raise ValueError(f"parts among {', '.join(PARTS)}")
        super().__init__(**{"parts": given, **fitted})

    @classmethod
    def of(cls, arguments: list[str]) -> Self:
        return cls(*arguments)

    def fit(self, found: Moments, kind: pa.DataType, where: str) -> Self:
        unit, zone = _unit_and_zone(kind)
        usual = ("weekday", "year") if pa.types.is_date(kind) else ("hour", "weekday", "year")
        return self.model_copy(update={"parts": self.parts or usual, "unit": unit, "zone": zone})

    def features(self, column: str) -> tuple[str, ...]:
        return tuple(f"{column}:{wave}({part})" for part in self.parts for wave in ("sin", "cos"))

    def encode(
        self, array: pa.Array, value: pa.DataType, where: str, first_row: int
    ) -> NDArray[Any]:
        times = self.times(array, where)
        out = np.zeros((len(array), self.width))
        known = times.is_valid().to_numpy(zero_copy_only=False)
        some = times.drop_null()
        for position, part in enumerate(self.parts):
            angle = 2 * np.pi * PARTS[part](some)
            out[known, 2 * position] = np.sin(angle)
            out[known, 2 * position + 1] = np.cos(angle)
        return out

    def summary(self) -> str:
        return f"sine and cosine of {', '.join(self.parts)}"
