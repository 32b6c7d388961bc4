"""Commands, their arguments and options, and their help: plain text, with options in sections."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from graphtheta.cli.terminal.names import NAMES, names

__all__ = ["Command", "Group", "Threads", "argument", "command_group", "flag", "option"]


def argument(metavar: str, help: str | None = None) -> Any:
    """Declare a positional argument, for `typing.Annotated`.

    Args:
        metavar: Placeholder of the value in the help.
        help: What the argument is. If None, it is in the docstring of the command.
    """
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def option(
    metavar: str,
    help: str | None = None,
    *,
    names: tuple[str, ...] = (),
    panel: str | None = None,
    default: str | bool = True,
    **limits: Any,
) -> Any:
    """Declare an option that takes a value, for `typing.Annotated`.

    Args:
        metavar: Placeholder of the value in the help.
        help: What the option does. If None, it is in the docstring of the command.
        names: Names of the option, such as --workers and -n. If empty, that of the parameter.
        panel: Section of the help.
        default: Describes a default that is not a value; False to show none.
        limits: `min` and `max` of a number.
    """
    return typer.Option(
        *names,
        metavar=metavar,
        help=help,
        rich_help_panel=panel,
        show_default=default,
        **limits,
    )


def flag(name: str, help: str | None = None, *, panel: str | None = None) -> Any:
    """Declare an option that takes no value, for `typing.Annotated`; see `option`."""
    return typer.Option(name, help=help, rich_help_panel=panel)


def command_group(**options: Any) -> typer.Typer:
    """Return a `typer.Typer` whose help is that of `Group`."""
    return typer.Typer(
        cls=Group, rich_markup_mode=None, context_settings={"max_content_width": 100}, **options
    )


Threads = Annotated[
    int | None,
    option(
        "INTEGER",
        "Threads per worker.",
        panel="Machine",
        default="cores of the host divided by its workers",
        min=1,
    ),
]


class Group(TyperGroup):
    """Group of commands whose help keeps the lines of its examples."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        self.help = _with_examples(self.help)
        super().format_help_text(ctx, formatter)


class Command(TyperCommand):
    """Command whose help is in its docstring, with a section for each `rich_help_panel`.

    The help of an argument or option is its entry under `Args:`. There, placeholders such as
    `{models}` are replaced by names in a registry.
    """

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:
        text, found, entries = (help or "").partition("\n\nArgs:\n")
        entries, _, rest = entries.partition("\n\n")
        super().__init__(*args, help=f"{text}\n\n{rest}" if found else help, **options)
        texts = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", entries, re.MULTILINE))
        parameters: list[Any] = self.params
        for parameter in parameters:
            if parameter.name in texts:
                text = " ".join(texts[parameter.name].split())
                parameter.help = text.format_map({registry: names(registry) for registry in NAMES})

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        self.help = _with_examples(self.help)
        super().format_help_text(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue  # hidden
            name, text = record
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            if parameter.param_type_name == "argument":
                name, title = parameter.metavar or parameter.name.upper(), "Arguments"
            sections.setdefault(title, []).append((name, text))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _with_examples(text: str | None) -> str:
    """Mark the examples of a docstring, so that the formatter does not wrap their lines."""
    return (text or "").replace("\n\nExample:", "\n\n\b\nExample:")
