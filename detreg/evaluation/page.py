"""The report's page: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

TYPES = {".png": "image/png", ".jpg": "image/jpeg"}

STYLE = """
body { margin: 0 auto; max-width: 1040px; padding: 24px; color: #22272e; background: #fff; font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 26px } h2 { margin: 40px 0 8px; font-size: 19px }
p { margin: 4px 0 16px; max-width: 72ch; color: #57606a }
.numbers { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }
.numbers div { flex: 1 1 110px; padding: 10px 14px; border: 1px solid #dde1e6; border-radius: 8px }
.numbers b { display: block; font-size: 24px; font-variant-numeric: tabular-nums } .numbers span { color: #57606a; font-size: 13px }
table { border-collapse: collapse } th, td { padding: 4px 20px 4px 0; border-bottom: 1px solid #eef0f2; text-align: left }
th { color: #57606a; font-weight: normal; white-space: nowrap; vertical-align: top } td { overflow-wrap: anywhere }
.plot { display: block; width: 100%; max-width: 960px; margin: 12px 0 }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 16px }
figure { margin: 0 } figure img { width: 100%; display: block } figcaption { font-size: 13px; color: #57606a; overflow-wrap: anywhere }
figcaption b { color: #22272e }
.legend span { margin-right: 16px; white-space: nowrap }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px }
"""


@dataclass(frozen=True)
class GalleryItem:
    """A picture file with the name and the words under it."""

    file: Path
    name: str
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Pictures under one heading."""

    heading: str
    explanation: str
    pictures: Sequence[GalleryItem]


def render(
    title: str,
    subtitle: str,
    numbers: Mapping[str, float | None],
    facts: Mapping[str, str],
    plots: Sequence[Path],
    galleries: Sequence[Gallery],
    colors: Mapping[str, str],
    table: Sequence[Mapping[str, str]] = (),
) -> str:
    """Put the report's parts on one page; plots and pictures are embedded, colours are the classes' in the pictures' legend.

    The rows of `table` have the same keys, which are its head.
    """
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>",
        _numbers(numbers),
        _facts(facts),
        "<h2>Plots</h2>" if plots else "",
        *(
            f'<img class="plot" alt="{escape(plot.stem)}" src="{_data_uri(plot)}">'
            for plot in plots
        ),
        _table(table),
        *(_gallery(gallery, colors) for gallery in galleries if gallery.pictures),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _numbers(numbers: Mapping[str, float | None]) -> str:
    texts = {name: "-" if value is None else f"{value:.3f}" for name, value in numbers.items()}
    tiles = "".join(
        f"<div><b>{text}</b><span>{escape(name)}</span></div>" for name, text in texts.items()
    )
    return f'<div class="numbers">{tiles}</div>'


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table>{rows}</table>" if facts else ""


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _gallery(gallery: Gallery, colors: Mapping[str, str]) -> str:
    legend = "".join(
        f'<span><i style="background:{color}"></i>{escape(name)}</span>'
        for name, color in colors.items()
    )
    figures = "".join(
        f'<figure><img alt="{escape(shown.name)}" src="{_data_uri(shown.file)}">'
        f"<figcaption><b>{escape(shown.caption)}</b><br>{escape(shown.name)}</figcaption></figure>"
        for shown in gallery.pictures
    )
    return (
        f"<h2>{escape(gallery.heading)}</h2><p>{escape(gallery.explanation)}</p>"
        f'<p class="legend">{legend}</p><div class="pictures">{figures}</div>'
    )


def _data_uri(file: Path) -> str:
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
