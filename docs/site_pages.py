"""Pages of the documentation site that are generated when it is built; a hook of MkDocs.

The command-line reference is made from the commands themselves. The changelog, the contributing
guide and the benchmarks are kept elsewhere in the repository.
"""

from __future__ import annotations

import html
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
KEPT_ELSEWHERE = {
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
PAGE_OF = {source: page for page, source in KEPT_ELSEWHERE.items()}
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+://|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for page, source in KEPT_ELSEWHERE.items():
        content = with_site_links((ROOT / source).read_text(), source)
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "reference/cli.md", content=command_line_reference()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links of pages in docs/ that leave it to their pages on the site."""
    source = page.file.src_uri
    return markdown if source in KEPT_ELSEWHERE else with_site_links(markdown, f"docs/{source}")


def with_site_links(text: str, source: str) -> str:
    """Return a page with links that work on the site: those of the repository to files of it."""
    page = PAGE_OF.get(source, source.removeprefix("docs/"))

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = PAGE_OF.get(path)
        if path.startswith("docs/") and not path.endswith((".py", ".sh", ".service", ".yaml")):
            uri = path.removeprefix("docs/")
        if uri is None:
            return label if path in label or label.strip("`") in path else f"{label} (`{path}`)"
        relative = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"[{label}]({relative}{anchor})"

    return LINK.sub(link, text)


def command_line_reference() -> str:
    """Return the reference of all commands, as typer writes it."""
    command = [sys.executable, "-m", "typer", "graphtheta.cli", "utils", "docs", "--name"]
    done = subprocess.run(
        [*command, "graphtheta"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    text = html.unescape(done.stdout).replace("# `graphtheta`", "# Command line", 1)

    def console(match: re.Match[str]) -> str:
        commands = [line.strip() for line in match[1].strip().splitlines()]
        return "\n".join(["```console", *(f"$ {command}" for command in commands), "```"])

    return re.sub(r"^Example:((?:(?: |\n +)\S[^\n]*)+)", console, text, flags=re.M)
