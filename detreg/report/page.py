"""A report's page: one HTML file that needs no network, no script and no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from detreg.redaction import redact
from detreg.report.theme import GRID, INK, MUTED_TEXT

MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}

STYLE = f"""
body {{
  margin: 0 auto; max-width: 1040px; padding: 24px;
  color: {INK}; background: #fff; font: 15px/1.5 system-ui, sans-serif
}}
h1 {{ margin: 0; font-size: 26px }}
h2 {{ margin: 40px 0 8px; font-size: 19px }}
p {{ margin: 4px 0 16px; max-width: 72ch; color: {MUTED_TEXT} }}

.numbers {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }}
.numbers div {{
  flex: 1 1 110px; padding: 10px 14px; border: 1px solid {GRID}; border-radius: 8px
}}
.numbers b {{ display: block; font-size: 24px; font-variant-numeric: tabular-nums }}
.numbers span {{ color: {MUTED_TEXT}; font-size: 13px }}

table {{ border-collapse: collapse }}
th, td {{ padding: 4px 20px 4px 0; border-bottom: 1px solid #eef0f2; text-align: left }}
th {{ color: {MUTED_TEXT}; font-weight: normal; white-space: nowrap; vertical-align: top }}
td {{ overflow-wrap: anywhere }}

.plot {{ display: block; width: 100%; max-width: 960px; margin: 12px 0 }}

.images {{
  display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr))
}}
figure {{ margin: 0 }}
figure img {{ width: 100%; display: block }}
figcaption {{ font-size: 13px; color: {MUTED_TEXT}; overflow-wrap: anywhere }}
figcaption b {{ color: {INK} }}

.legend span {{ margin-right: 16px; white-space: nowrap }}
.legend i {{
  display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px
}}
"""


@dataclass(frozen=True)
class GalleryItem:
    """An image file, with the name and the caption that stand under it."""

    file: Path
    name: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Images under one heading. `legend` holds the color (#rrggbb) of each class by its name."""

    heading: str
    explanation: str
    items: Sequence[GalleryItem]
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """The content of a report's page, in the order in which it is shown.

    `numbers` are the figures that matter most, None where one is not defined; `facts` is a table
    of two columns; `plots` are files of images; the rows of `table` have the same keys, which are
    its head. What is empty is left out.
    """

    title: str
    subtitle: str
    numbers: Mapping[str, float | None]
    facts: Mapping[str, str] = field(default_factory=dict)
    plots: Sequence[Path] = ()
    table: Sequence[Mapping[str, str]] = ()
    galleries: Sequence[Gallery] = ()


def write_page(page: Page, path: Path) -> Path:
    """Write a page as an HTML file that embeds its images, and return its path."""
    # Reasons of failed trials come from studies that older versions have written.
    path.write_text(redact(render_page(page)), encoding="utf-8")
    return path


def render_page(page: Page) -> str:
    """Return a page as HTML, with its images embedded."""
    parts = [
        f"<h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p>",
        _render_numbers(page.numbers),
        _render_facts(page.facts),
        _render_plots(page.plots),
        _render_table(page.table),
    ]
    parts += [_render_gallery(gallery) for gallery in page.galleries]
    body = "\n".join(part for part in parts if part)

    head = f'<meta charset="utf-8"><title>{escape(page.title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _render_numbers(numbers: Mapping[str, float | None]) -> str:
    tiles = ""
    for name, value in numbers.items():
        text = "-" if value is None else f"{value:.3f}"
        tiles += f"<div><b>{text}</b><span>{escape(name)}</span></div>"
    return f'<div class="numbers">{tiles}</div>'


def _render_facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = ""
    for name, value in facts.items():
        rows += f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
    return f"<table>{rows}</table>"


def _render_plots(plots: Sequence[Path]) -> str:
    if not plots:
        return ""
    parts = ["<h2>Plots</h2>"]
    for plot in plots:
        source = _make_data_uri(plot)
        parts.append(f'<img class="plot" alt="{escape(plot.stem)}" src="{source}">')
    return "\n".join(parts)


def _render_table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = ""
    for row in rows:
        cells = "".join(f"<td>{escape(value)}</td>" for value in row.values())
        body += f"<tr>{cells}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"


def _render_gallery(gallery: Gallery) -> str:
    if not gallery.items:
        return ""

    legend = ""
    for name, color in gallery.legend.items():
        legend += f'<span><i style="background:{color}"></i>{escape(name)}</span>'

    figures = ""
    for item in gallery.items:
        name = escape(item.name)
        image = f'<img alt="{name}" src="{_make_data_uri(item.file)}">'
        caption = f"<figcaption><b>{escape(item.caption)}</b><br>{name}</figcaption>"
        figures += f"<figure>{image}{caption}</figure>"

    return (
        f"<h2>{escape(gallery.heading)}</h2><p>{escape(gallery.explanation)}</p>"
        f'<p class="legend">{legend}</p><div class="images">{figures}</div>'
    )


def _make_data_uri(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{MEDIA_TYPES[file.suffix]};base64,{content}"
