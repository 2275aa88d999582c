"""Pieces of HTML that every section uses; all text is escaped here, all images are embedded."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from xdiff.errors import InputError

escape = html.escape
FOLDER = Path(__file__).parent


def anchor(*names: str) -> str:
    """An id that a link can name: letters, digits, dots, hyphens and underscores."""
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", name) for name in names)


def paragraph(text: str, css: str = "") -> str:
    return f'<p class="{css}">{escape(text)}</p>\n' if css else f"<p>{escape(text)}</p>\n"


def image(path: Path, name: str, caption: str, named_by: str) -> str:
    """A PNG with its caption, embedded. Raises InputError where the file that `named_by` names is not there."""
    if not path.is_file():
        raise InputError(path, "no such file", f"the figure that {named_by} names")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    width, height = (int.from_bytes(path.read_bytes()[at : at + 4], "big") for at in (16, 20))  # of the PNG's first chunk
    shown = f'<img alt="{escape(name)}" width="{width}" height="{height}" decoding="async" src="data:image/png;base64,{data}">'
    shown = f'<div class="picture" tabindex="0">{shown}</div>'
    return f'<figure id="{escape(anchor(name))}">{shown}<figcaption>{escape(caption)}</figcaption></figure>\n'


def plain_table(header: Sequence[str], lines: Sequence[Sequence[str]], css: str = "sortable") -> str:
    """A table of text; `css`: sortable, text (long cells), or both."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in header)
    rows = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>\n" for line in lines)
    table = f'<table class="{css}"><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>\n'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    return '<dl class="facts">' + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs) + "</dl>\n"


def folded(summary: str, inside: str) -> str:
    """Content that a press unfolds, without a script."""
    return f"<details><summary>{escape(summary)}</summary>\n{inside}</details>\n"


def document(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The page. `sections`: (id, heading, HTML). The policy in its head forbids the browser any request."""
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{escape(name)}</h2>\n{text}</section>\n' for key, name, text in sections)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>\n{style}</style></head>\n'
        f'<body><header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>\n'
        f'<nav aria-label="Sections">{links}</nav>\n<main>\n{body}</main><script>\n{script}</script></body></html>\n'
    )
