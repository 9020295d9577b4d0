"""HTML pages that are one file: their style and pictures inside, nothing run and nothing fetched.

What is not `Html` is text, and is escaped: names of files can hold anything.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import numbers
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from tweedie_diffusion.evaluation.figures import png_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTENTS_FROM = 4  # sections: a page with as many begins with a list of them
PIXELS_AN_INCH = 96  # of CSS
KINDS = ("good", "doubtful", "bad")
_MIME = {b"\x89PNG\r\n\x1a\n": "image/png", b"GIF89a": "image/gif", b"GIF87a": "image/gif"}
# Neither of a text nor of HTML: control characters, and halves of pairs, as undecodable names of files have them.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_STYLE = """
:root { color-scheme: light dark; --ink: #1f1f1f; --faint: #555; --paper: #fafafa; --card: #fff; --line: #d8d8d8;
  --good: #00795a; --doubtful: #b06f00; --bad: #b84300; --link: #005a8d; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --faint: #b0b0b0; --paper: #161616;
  --card: #222; --line: #444; --good: #2fc79b; --doubtful: #f0b340; --bad: #ff8a4c; --link: #7cc4f2; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
a { color: var(--link); }
p { max-width: 46rem; overflow-wrap: anywhere; }
.notice { border-left: .5rem solid var(--line); background: var(--card); padding: .8rem 1rem; font-size: 1.05rem;
  max-width: none; }
.good { border-color: var(--good); } .doubtful { border-color: var(--doubtful); } .bad { border-color: var(--bad); }
pre { background: var(--card); border: 1px solid var(--line); padding: .8rem; overflow-x: auto; font-size: .85rem; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: .9rem; max-width: 46rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 2px; }
.pixels img { image-rendering: pixelated; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 1.5rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .95rem; }
caption { text-align: left; color: var(--faint); font-size: .9rem; padding-bottom: .4rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid var(--faint); } tbody th { font-weight: normal; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; background: #fff; }
  figure, tr, .notice { break-inside: avoid; } h2 { break-after: avoid; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; } nav { display: none; } }
"""


@dataclasses.dataclass(frozen=True)
class Html:
    """A piece of a page, of this module's making."""

    text: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A piece of a page with a heading."""

    title: str
    content: Html


def escaped(text: Any) -> str:
    """Text as HTML; characters that no page can hold are shown as �."""
    return html.escape(_NO_TEXT.sub("\ufffd", str(text)))


def paragraph(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escaped(text)}</p>")


def notice(text: str, kind: str) -> Html:
    """A paragraph that is seen first: good, doubtful or bad."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)} (got {kind!r})")
    return Html(f'<p class="notice {kind}">{escaped(text)}</p>')


def preformatted(text: str) -> Html:
    """Text as it is, in type of one width."""
    return Html(f"<pre>{escaped(text)}</pre>")


def section(title: str, *parts: Html | str) -> Section:
    """A part of the page under a heading; a plain string is a paragraph."""
    return Section(title, _joined(parts))


def side_by_side(*parts: Html | str) -> Html:
    """Parts beside each other where there is room."""
    return Html(f'<div class="side">{_joined(parts).text}</div>')


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> Html:
    """A table: the first cell of a row names it, numbers are shown with four digits and stand right.

    Args:
        headers: of the columns, such as "measure", "value", "floor", "n", "seed".
        rows: cells are text, numbers, Html, or None where there is nothing.
        caption: what the table shows, said above it.

    Raises:
        ValueError: if a row has more or fewer cells than there are headers.
    """
    if uneven := [row for row in rows if len(row) != len(headers)]:
        raise ValueError(f"a row must have {len(headers)} cells, one a header (got {len(uneven[0])}: {uneven[0]})")
    numeric = [any(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(headers)
    classes = [' class="number"' if number else "" for number in numeric]
    head = "".join(f'<th scope="col"{c}>{escaped(name)}</th>' for name, c in zip(headers, classes, strict=True))
    body = ""
    for row in rows:
        first, *others = (_cell(cell) for cell in row)
        cells = "".join(f"<td{c}>{cell}</td>" for cell, c in zip(others, classes[1:], strict=True))
        body += f'<tr><th scope="row"{classes[0]}>{first}</th>{cells}</tr>\n'
    return Html(
        f'<div class="wide"><table><caption>{escaped(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def figure(picture: Figure | Image.Image | bytes, caption: str, alt: str, *, pixels: bool = False) -> Html:
    """A picture inside the page, with what it shows under it.

    Args:
        picture: a figure, a picture of Pillow, or the bytes of a PNG or GIF.
        caption: said under it.
        alt: what it shows, for those who do not see it.
        pixels: enlarge pixels as squares, which suits grids of small images.

    Raises:
        ValueError: if the bytes are neither, or alt is empty.
    """
    if not alt.strip():
        raise ValueError("alt is empty: say what the picture shows")
    data = picture if isinstance(picture, bytes) else png_of(picture)
    mime = next((mime for magic, mime in _MIME.items() if data.startswith(magic)), None)
    if mime is None:
        raise ValueError("a picture must be a PNG or a GIF")
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    words = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    kind = ' class="pixels"' if pixels else ""
    return Html(f'<figure{kind}><img alt="{escaped(alt)}" {_size(data)} src="{source}">{words}</figure>')


def _size(data):
    """The attributes that show a picture in its inches, so that a fine screen shows more of it; else pixel by pixel."""
    with Image.open(io.BytesIO(data)) as image:
        dots = image.info.get("dpi", (PIXELS_AN_INCH, PIXELS_AN_INCH))
        sizes = [round(PIXELS_AN_INCH * pixels / max(dpi, 1)) for pixels, dpi in zip(image.size, dots, strict=True)]
    return f'width="{sizes[0]}" height="{sizes[1]}"'


def page(title: str, lead: Html | str, *sections: Section) -> str:
    """The page: a title, what matters most, and the sections; with four or more of them, links to each.

    Its policy lets it load its own style and pictures, and nothing else, from nowhere.
    """
    own = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{own}'; base-uri 'none'; form-action 'none'"
    body = "".join(
        f'<section id="s{i}"><h2>{escaped(s.title)}</h2>\n{s.content.text}</section>\n' for i, s in enumerate(sections)
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" '
        f'content="no-referrer">\n<link rel="icon" href="data:,">\n<title>{escaped(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escaped(title)}</h1>\n{_joined([lead]).text}\n"
        f"{_contents(sections)}{body}</main>\n</body>\n</html>\n"
    )


def _contents(sections):
    if len(sections) < CONTENTS_FROM:
        return ""
    links = "".join(f'<li><a href="#s{i}">{escaped(s.title)}</a></li>' for i, s in enumerate(sections))
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'


def _joined(parts):
    return Html("\n".join((part if isinstance(part, Html) else paragraph(part)).text for part in parts))


def _is_number(cell):
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)


def _cell(cell):
    if cell is None:
        return ""
    if isinstance(cell, Html):
        return cell.text
    if _is_number(cell):
        return str(cell) if isinstance(cell, numbers.Integral) else f"{cell:.4g}"
    return escaped(cell)
