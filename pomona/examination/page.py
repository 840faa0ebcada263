"""How anything gets onto a page: escaped text, tables that narrow screens can show as cards, the frame around it all.

The page makes no request, runs no script and needs no font; it forbids itself everything else by its policy. Light,
dark, paper and telephone are handled by the style alone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pomona.examination.canvas import FONT, TEXT_CSS, palette_css
from pomona.examination.units import data_size, visible


@dataclass(frozen=True)
class Row:
    """A row of a table: cells as HTML, the first being its name; or a heading, with one cell, for the rows below.

    `total` rows are set apart from those above.
    """

    cells: Sequence[str]
    heading: bool = False
    total: bool = False


def text(value: str, *, lines: bool = False) -> str:
    """The only way from a string to the page: everything visible, and escaped."""
    return html.escape(visible(value, lines=lines), quote=True)


def name(value: str) -> str:
    """A name within other text: its own direction of writing does not spread."""
    return f"<bdi>{text(value)}</bdi>"


def small(value: str) -> str:
    """A remark below a cell's value; nothing for nothing."""
    return f"<small>{text(value)}</small>" if value else ""


def swatch(variable: str) -> str:
    """A dot in the colour of an arm."""
    return f'<i class="swatch" style="background: var(--{variable})"></i>' if variable else ""


def section(title: str, body: str) -> str:
    """A titled part of the page. `title` is ours, `body` is HTML."""
    return f"<section><h2>{title}</h2>{body}</section>"


def pair(parts: Sequence[str]) -> str:
    """Two blocks of HTML side by side; one below the other where there is no room."""
    return f'<div class="pair">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def prose(*paragraphs: str) -> str:
    """Paragraphs of HTML; empty ones are left out."""
    return f'<div class="prose">{"".join(f"<p>{paragraph}</p>" for paragraph in paragraphs if paragraph)}</div>'


def table(heads: Sequence[str], rows: Sequence[Row], *, words: Iterable[int] = (0,)) -> str:
    """A table without the columns that are empty throughout.

    Args:
        heads: names of the columns, as plain text.
        rows: each with as many cells as `heads`, headings with one.
        words: columns that hold words, whose names stand left; the others hold numbers.
    """
    left = set(words)
    used = [index for index in range(len(heads)) if any(not row.heading and row.cells[index] for row in rows)]
    titles = "".join(f'<th scope="col"{"" if each in left else " class=n"}>{text(heads[each])}</th>' for each in used)
    bodies: list[str] = []
    for row in rows:
        if row.heading or not bodies:
            bodies.append("")
        if row.heading:
            bodies[-1] += f'<tr class="group"><th colspan="{len(used)}" scope="rowgroup">{row.cells[0]}</th></tr>'
        else:
            cells = "".join(_cell(row.cells[index], heads[index], first=index == 0) for index in used)
            bodies[-1] += f"<tr{' class=sum' if row.total else ''}>{cells}</tr>"
    body = "".join(f"<tbody>{part}</tbody>" for part in bodies)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>{body}</table></div>'


def fact_list(facts: Mapping[str, Any]) -> str:
    """Facts as a list of names and values, in their order; what is not known is left out."""
    items = "".join(
        f"<div><dt>{text(str(key).replace('_', ' '))}</dt><dd>{_fact(str(key), value)}</dd></div>"
        for key, value in facts.items()
        if value is not None and value != ""
    )
    return f'<dl class="facts">{items}</dl>'


def page(title: str, body: str) -> str:
    """The whole file."""
    css = files("pomona.examination").joinpath("report.css").read_text(encoding="utf-8")
    for placeholder, part in (
        ("/* light */", palette_css("light")),
        ("/* dark */", palette_css("dark")),
        ("/* text in drawings */", TEXT_CSS),
        ("FONT", FONT),
    ):
        css = css.replace(placeholder, part)
    return _FRAME.format(title=text(title), style=css, body=body)


def _cell(cell: str, head: str, *, first: bool) -> str:
    """A cell that carries its column's name, for screens that show each row as a card."""
    if first:
        return f'<th scope="row">{cell}</th>'
    return f'<td data-head="{text(head)}"{"" if cell else " class=none"}>{cell}</td>'


def _fact(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{name(str(part))} {_fact(str(part), known)}" for part, known in value.items())
    if isinstance(value, list | tuple):
        return "<br>".join(_fact(key, part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return text(data_size(value) if key == "bytes" or key.endswith("_bytes") else f"{value:,}")
    return text(str(value))


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
