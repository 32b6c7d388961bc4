"""File of a fitted law."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from graphtheta.errors import ConfigError
from graphtheta.loss_law.law import MultiPowerLaw
from graphtheta.runtime.atomic import atomic_file, disk_errors

__all__ = ["LawFile"]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    l0: PositiveFloat
    a: PositiveFloat
    alpha: PositiveFloat
    b: PositiveFloat
    c: PositiveFloat
    beta: PositiveFloat
    gamma: PositiveFloat


class LawFile(BaseModel):
    """Fitted law, and what it was fitted to, as a file of JSON.

    Attributes:
        law: Parameters of the law.
        peak: Largest learning rate of the fitted runs.
        column: Loss that the law predicts.
        runs: Directories of the fitted runs.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    law: _Parameters
    peak: PositiveFloat
    column: str
    runs: list[str]

    @classmethod
    def of(cls, law: MultiPowerLaw, peak: float, column: str, runs: list[str]) -> LawFile:
        """Return the file of a law."""
        return cls(law=_Parameters(**asdict(law)), peak=peak, column=column, runs=runs)

    @property
    def fitted(self) -> MultiPowerLaw:
        """The law."""
        return MultiPowerLaw(**self.law.model_dump())

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            ConfigError: If it cannot be written.
        """
        with disk_errors(path, "the law", ConfigError), atomic_file(path) as file:
            file.write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> LawFile:
        """Read a file.

        Raises:
            ConfigError: If there is none, or it is not a law.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            found = error.strerror or "an error"
        except ValidationError as error:
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise ConfigError(
            f"{path}: expected a law that graphtheta schedule fit wrote, got {found}."
        )
