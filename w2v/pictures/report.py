"""One HTML file that holds all it shows: pictures, sounds, tables. It asks for nothing outside and runs no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from w2v.pictures.canvas import printable


@dataclass(frozen=True)
class Image:
    """A picture in a report.

    Attributes:
        png: the file.
        alt: what it shows, for people who do not see it.
        name: file of the picture, beside the report.
        numbers: file of its numbers, beside the report.
    """

    png: bytes
    alt: str
    name: str = ""
    numbers: str = ""


@dataclass(frozen=True)
class Sound:
    """A sound in a report.

    Attributes:
        flac: the file.
        label: what it is.
    """

    flac: bytes
    label: str


Cell = str | Sound


@dataclass(frozen=True)
class Table:
    """Rows of texts and sounds under column names."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        text: paragraphs of plain text.
        parts: pictures, sounds and tables, in order.
    """

    title: str
    text: Sequence[str] = ()
    parts: Sequence[Image | Sound | Table] = field(default_factory=list)


# No script, no connection, no font, frame or form: a browser that keeps to this can ask for nothing.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #ffffff; --faint: #666; --line: #d8d8d8; --link: #005a9c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #17191c; --faint: #a8a8a8; --line: #3a3d42; --link: #7db8ee; }
}
body { margin: 0 auto; padding: 1rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p { max-width: 46rem; }
nav ul { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--link); }
figure { margin: 1rem 0 1.75rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption, .label { color: var(--faint); font-size: .875rem; overflow-wrap: anywhere; }
audio { height: 2.2rem; max-width: 100%; vertical-align: middle; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td audio { width: 9.5rem; }
@media print {
  :root { --ink: #000; --paper: #fff; --faint: #444; --line: #bbb; }
  nav, audio { display: none; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  body { max-width: none; padding: 0; font-size: 10pt; }
}
"""


def render_report(title: str, card: Mapping[str, str], sections: Sequence[Section], *, footer: str = "") -> bytes:
    """Return the HTML file.

    Args:
        title: heading and title of the page.
        card: what is told of the model first, name by name.
        sections: the rest; each can be reached from the top.
        footer: the last line.
    """
    links = "".join(f'<li><a href="#{_anchor(i)}">{_text(s.title)}</a></li>' for i, s in enumerate(sections))
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # A browser asks a server for an icon, unless the page has one.
        f'<link rel="icon" href="data:,">\n<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
    )
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>\n' for name, value in card.items()
    )
    body = [
        f"<body>\n<header><h1>{_text(title)}</h1>\n<table>\n{rows}</table>\n",
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>\n',
        *(_section(number, section) for number, section in enumerate(sections)),
        f'</main>\n<footer class="label">{_text(footer)}</footer>\n</body>\n</html>\n',
    ]
    return (head + "".join(body)).encode("utf-8")


def _section(number: int, section: Section) -> str:
    text = "".join(f"<p>{_text(paragraph)}</p>\n" for paragraph in section.text)
    parts = "".join(_part(part) for part in section.parts)
    return f'<section id="{_anchor(number)}">\n<h2>{_text(section.title)}</h2>\n{text}{parts}</section>\n'


def _part(part: Image | Sound | Table) -> str:
    if isinstance(part, Table):
        head = "".join(f'<th scope="col">{_text(name)}</th>' for name in part.columns)
        rows = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>\n" for row in part.rows)
        return f'<div class="scroll" tabindex="0"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n'
    if isinstance(part, Sound):
        return f"<figure>{_sound(part)} <figcaption>{_text(part.label)}</figcaption></figure>\n"
    files = " · ".join(
        f"{what}: {_text(name)}" for what, name in (("picture", part.name), ("numbers", part.numbers)) if name
    )
    caption = f"<figcaption>{files}</figcaption>" if files else ""
    return f'<figure><img alt="{_text(part.alt)}" src="data:image/png;base64,{_base64(part.png)}">{caption}</figure>\n'


def _cell(cell: Cell) -> str:
    if isinstance(cell, Sound):
        return f'{_sound(cell)}<div class="label">{_text(cell.label)}</div>'
    return _text(cell)


def _sound(sound: Sound) -> str:
    return (
        f'<audio controls preload="none" aria-label="{_text(sound.label)}" '
        f'src="data:audio/flac;base64,{_base64(sound.flac)}"></audio>'
    )


def _anchor(number: int) -> str:
    return f"part-{number + 1}"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
