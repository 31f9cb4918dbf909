"""Sections of a report's page: a heading with texts, plots, a table and groups of images."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from detreg.report.theme import choose_text_color

_NUMBERS = re.compile(r"[-+]?[\d.,]+( to [-+]?[\d.,]+)?")
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class GalleryItem:
    """An image file, with the name and the caption that stand under it."""

    file: Path
    name: str
    caption: str


@dataclass(frozen=True)
class Block:
    """A part of a section: a title with a badge of a color, lines of text, and images.

    has_large_items: whether two images fill the width of the page; by default they are small.
    """

    title: str
    badge: str = ""
    color: str = "#000000"
    lines: Sequence[str] = ()
    items: Sequence[GalleryItem] = ()
    has_large_items: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page. `legend` holds the color (#rrggbb) of each class by its name.

    in_columns: whether blocks stand side by side where the page is wide enough.
    """

    heading: str
    explanation: str = ""
    lines: Sequence[str] = ()
    table: Sequence[Mapping[str, str]] = ()
    plots: Sequence[Path] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    blocks: Sequence[Block] = ()
    in_columns: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show under the heading."""
        return not (self.lines or self.table or self.plots or self.blocks)


def render_section(section: Section) -> str:
    """Return a section as HTML, empty where there is nothing to show."""
    if section.is_empty:
        return ""
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.explanation:
        parts.append(f"<p>{escape(section.explanation)}</p>")
    parts += [
        render_lines(section.lines),
        render_table(section.table),
        render_plots(section.plots),
        render_legend(section.legend),
    ]
    blocks = "\n".join(_render_block(block) for block in section.blocks)
    parts.append(f'<div class="columns">{blocks}</div>' if section.in_columns else blocks)
    return "\n".join(part for part in parts if part)


def render_lines(lines: Sequence[str]) -> str:
    """Return texts as a list."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>"


def render_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows with the same keys as a table; the keys are its head."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = ""
    for row in rows:
        cells = "".join(_render_cell(value) for value in row.values())
        body += f"<tr>{cells}</tr>"
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _render_cell(value: str) -> str:
    """Return a cell; one of numbers alone, such as `0.1 to 0.2`, is never broken into lines."""
    style = ' class="number"' if _NUMBERS.fullmatch(value) else ""
    return f"<td{style}>{escape(value)}</td>"


def render_plots(plots: Sequence[Path]) -> str:
    """Return figures, embedded, in the width of the page."""
    parts = []
    for plot in plots:
        source = make_data_uri(plot)
        parts.append(f'<img class="plot" alt="{escape(plot.stem)}" src="{source}">')
    return "\n".join(parts)


def render_legend(legend: Mapping[str, str]) -> str:
    """Return the color of each class as a line."""
    entries = ""
    for name, color in legend.items():
        entries += f'<span><i style="background:{color}"></i>{escape(name)}</span>'
    return f'<p class="legend">{entries}</p>' if entries else ""


def render_figures(items: Sequence[GalleryItem]) -> str:
    """Return images, embedded, with their captions and names."""
    figures = ""
    for item in items:
        name = escape(item.name)
        image = f'<img alt="{name}" src="{make_data_uri(item.file)}">'
        caption = f"<b>{escape(item.caption)}</b><br>{name}" if item.caption else name
        figures += f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return figures


def make_data_uri(file: Path) -> str:
    """Return the content of an image file as a URI."""
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{MEDIA_TYPES[file.suffix]};base64,{content}"


def _render_block(block: Block) -> str:
    badge = ""
    if block.badge:
        colors = f"background:{block.color};color:{choose_text_color(block.color)}"
        badge = f'<span class="badge" style="{colors}">{escape(block.badge)}</span>'
    images = ""
    if block.items:
        style = "images" if block.has_large_items else "thumbnails"
        images = f'<div class="{style}">{render_figures(block.items)}</div>'
    title = f"<h3>{badge}{escape(block.title)}</h3>"
    return f'<div class="block">{title}{render_lines(block.lines)}{images}</div>'
