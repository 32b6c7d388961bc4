"""Elements of an HTML page. Every text is escaped here, and nowhere else."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

from graphtheta.report.drawing import Drawing

__all__ = ["details", "document", "facts", "figures", "notes", "remark", "section", "table", "text"]

_MANY_COLUMNS = 5  # above which cells are not wrapped, and the table scrolls


def text(value: object) -> str:
    """Return a value as text of a page."""
    return html.escape(str(value))


def section(title: str, *parts: str) -> str:
    """Return a section; empty if all of its parts are."""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def details(title: str, content: str) -> str:
    """Return content that is shown on demand; empty if it is."""
    if not content:
        return ""
    return f"<details><summary>{text(title)}</summary>\n{content}\n</details>"


def facts(items: Iterable[tuple[str, str]]) -> str:
    """Return a row of names and values."""
    cells = [f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in items]
    return f'<dl class="facts">{"".join(cells)}</dl>' if cells else ""


def notes(sentences: Iterable[str]) -> str:
    """Return a box of sentences."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{items}</ul>' if items else ""


def remark(sentence: str) -> str:
    """Return a paragraph of small text."""
    return f'<p class="remark">{text(sentence)}</p>'


def figures(drawings: Iterable[Drawing]) -> str:
    """Return figures side by side, as far as the screen is wide enough."""
    found = []
    for drawing in drawings:
        note = f"<figcaption>{text(drawing.note)}</figcaption>" if drawing.note else ""
        image = f'<img src="{drawing.svg()}" alt="{text(drawing.title)}">'
        found.append(f"<figure>{image}{note}</figure>")
    return f'<div class="figures">{"".join(found)}</div>' if found else ""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    marked: Collection[int] = (),
    colours: Sequence[str] = (),
) -> str:
    """Return a table; empty if it has no rows.

    Args:
        head: Names of the columns; empty for a table without them.
        rows: Cells of text.
        title: Heading of the table.
        marked: Indices of the rows to highlight.
        colours: Colour of each row, which is shown as a mark before its first cell.
    """
    if not rows:
        return ""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = [f"<thead><tr>{names}</tr></thead>"] if head else []
    for index, row in enumerate(rows):
        mark = f'<i style="background:{colours[index]}"></i>' if colours else ""
        first, *rest = row
        cells = f'<th scope="row">{mark}{text(first)}</th>'
        cells += "".join(f"<td>{text(cell)}</td>" for cell in rest)
        lines.append(f"<tr{' class=marked' if index in marked else ''}>{cells}</tr>")
    heading = f"<h3>{text(title)}</h3>" if title else ""
    is_wide = len(rows[0]) > _MANY_COLUMNS
    return f'{heading}<div class="wide{" many" * is_wide}"><table>{"".join(lines)}</table></div>'


def document(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """Return a page that needs no other file."""
    content = "\n".join(filter(None, parts))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header><h1>{text(title)}</h1><p>{text(subtitle)}</p></header>
{content}
</main>
</body>
</html>
"""


_STYLE = """
:root { color-scheme: light; --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --blue: #0b5c8a }
* { box-sizing: border-box }
body { margin: 0; background: #f6f7f9; color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px }
header p { margin: 4px 0 0; color: var(--soft); overflow-wrap: anywhere }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere }
h2 { margin: 40px 0 12px; font-size: 1.15rem }
h3 { margin: 20px 0 8px; font-size: 1rem }
.facts { display: flex; flex-wrap: wrap; margin: 20px 0 0; padding: 6px 0; background: #fff;
  border: 1px solid var(--line); border-radius: 10px }
.facts div { flex: 0 1 auto; min-width: 132px; padding: 8px 16px }
header + .wide { margin-top: 20px }
.facts dt { color: var(--soft); font-size: .8rem }
.facts dd { margin: 2px 0 0; font-size: 1.15rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.notes { margin: 16px 0 0; padding: 10px 14px 10px 32px; background: #fff8e6;
  border: 1px solid #f3e2b3; border-radius: 10px; font-size: .9rem }
.remark { color: var(--soft); font-size: .9rem }
.figures { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)) }
figure { margin: 0; padding: 14px 14px 10px; background: #fff; border: 1px solid var(--line);
  border-radius: 10px }
figure img { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto }
figcaption { margin-top: 6px; color: var(--soft); font-size: .82rem }
.wide { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 10px }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums }
th, td { padding: 7px 14px; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line) }
tr:first-child > * { border-top: 0 }
thead th { color: var(--soft); font-weight: 600; background: #fafafa; white-space: nowrap }
thead + tr > * { border-top: 1px solid var(--line) }
tr th[scope=row] { font-weight: 500; white-space: nowrap }
td { overflow-wrap: anywhere; min-width: 5em }
.many td { white-space: nowrap; min-width: 0; max-width: 24em; overflow: hidden;
  text-overflow: ellipsis }
.marked > * { background: #fff8e6 }
th i { display: inline-block; width: 10px; height: 10px; margin-right: 8px; border-radius: 5px }
details { margin-top: 16px }
summary { cursor: pointer; color: var(--blue); font-size: .95rem; margin-bottom: 12px }
@media print { body { background: #fff } figure { break-inside: avoid } }
"""
