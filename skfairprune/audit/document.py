"""A document of headings, paragraphs, tables and facts, written as Markdown or as a page of HTML."""

import itertools
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd

__all__ = ["Block", "Facts", "Heading", "Paragraph", "Table", "show_label", "write_html", "write_markdown"]


class Heading(NamedTuple):
    """A heading of the second level."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph; ``strong`` stands in bold before the text."""

    text: str
    strong: str = ""


class Table(NamedTuple):
    """A table of text; the columns from ``n_labels`` on are numbers, set to the right."""

    frame: pd.DataFrame
    n_labels: int = 1


class Facts(NamedTuple):
    """Named facts, one a line."""

    facts: dict[str, str]


Block = Heading | Paragraph | Table | Facts

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d8dde6; vertical-align: top; }
th { font-weight: 600; text-align: left; border-bottom-color: #8b95a7; }
dl { display: grid; grid-template-columns: max-content auto; gap: .3rem 1.2rem; }
dt { font-weight: 600; }
dd { margin: 0; }
th.number, td.number { text-align: right; padding: .3rem 0 .3rem 1.2rem; }
td.number { white-space: nowrap; }
@media print { @page { margin: 1.5cm; } body { font-size: 11px; margin: 0; padding: 0; } }
"""


def show_label(label: Any) -> str:
    """Write a group: the values of several columns behind each other."""
    return " / ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def write_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Write a document as Markdown, with pipe tables."""
    parts = [f"# {_plain(title)}"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"## {_plain(text)}")
            case Paragraph(text, strong):
                parts.append(f"**{_plain(strong)}** {_plain(text)}" if strong else _plain(text))
            case Table(frame, n_labels):
                parts.append(_markdown_table(frame, n_labels))
            case Facts(facts):
                parts.append("\n".join(f"- {_plain(name)}: {_plain(text)}" for name, text in facts.items()))
    return "\n\n".join(parts) + "\n"


def write_html(title: str, blocks: Sequence[Block]) -> str:
    """Write a document as a page of HTML that needs no other file."""
    parts = []
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"<h2>{_escape(text)}</h2>")
            case Paragraph(text, strong):
                bold = f"<strong>{_escape(strong)}</strong> " if strong else ""
                parts.append(f"<p>{bold}{_escape(text)}</p>")
            case Table(frame, n_labels):
                parts.append(_html_table(frame, n_labels))
            case Facts(facts):
                lines = (f"<dt>{_escape(name)}</dt><dd>{_escape(text)}</dd>" for name, text in facts.items())
                parts.append("<dl>\n" + "\n".join(lines) + "\n</dl>")
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_escape(title)}</h1>
{body}
</body>
</html>
"""


def _plain(text: str) -> str:
    """Return text that is one line, and no markup in Markdown."""
    # An underscore between letters is none.
    marked = re.sub(r"[\\`*|<>\[\]~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _printable(text))
    return " ".join(marked.split())


def _printable(text: str) -> str:
    """Return text without control characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escape(text: str) -> str:
    return escape(_printable(text))


def _markdown_table(frame: pd.DataFrame, n_labels: int) -> str:
    rows = [[_plain(str(cell)) for cell in row] for row in [frame.columns, *frame.to_numpy()]]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * (width - 1) + ("-" if at < n_labels else ":") for at, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        cells = [
            cell.ljust(width) if at < n_labels else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _html_table(frame: pd.DataFrame, n_labels: int) -> str:
    def write(tag: str, row: Iterable[object]) -> str:
        kinds = ("" if at < n_labels else ' class="number"' for at in itertools.count())
        cells = (f"<{tag}{kind}>{_escape(str(cell))}</{tag}>" for cell, kind in zip(row, kinds, strict=False))
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(write("td", row) for row in frame.to_numpy())
    return f"<table>\n<thead>{write('th', frame.columns)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
