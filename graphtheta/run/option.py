"""Declaration of an option of a training run: a field, and an option of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

__all__ = ["declare_option"]


def declare_option(
    default: Any,
    help: str,
    *,
    panel: str,
    metavar: str = "NAME",
    without: str = "",
    requires: Mapping[str, list[str]] | None = None,
    resumable: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a field of `RunConfig`, which is also an option of `graphtheta train`.

    Args:
        default: Value if the option is omitted; `...` if there is none.
        help: What the option does. Placeholders such as `{models}` are replaced by names in
            a registry.
        panel: Section of the help.
        metavar: Placeholder of a text value in the help.
        without: Describes a default that is not a value.
        requires: Another option, and the values of it that this option has an effect with.
        resumable: Whether a resumed run may have another value: one that changes how long or
            where the run computes, not what it computes.
        constraints: Range of the value, as for `pydantic.Field`.
    """
    details: dict[str, Any] = {
        "panel": panel,
        "metavar": metavar,
        "without": without,
        "requires": dict(requires or {}),
        "resumable": resumable,
    }
    return Field(default, description=help, json_schema_extra=details, **constraints)
