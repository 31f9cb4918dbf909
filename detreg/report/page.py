"""A report's page: one HTML file that needs no network and no other file, and shows all that it
has without a script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from detreg.files import write_atomically
from detreg.redaction import redact
from detreg.report.controls import CONTROL_STYLE, SCRIPT, render_controls
from detreg.report.scene import SCENE_STYLE, Scene, render_scenes
from detreg.report.section import (
    GalleryItem,
    Section,
    render_figures,
    render_legend,
    render_lines,
    render_plots,
    render_section,
    render_table,
)
from detreg.report.theme import GRID, INK, MUTED_TEXT, RIGHT, WRONG

STYLE = f"""
body {{
  margin: 0 auto; max-width: 1040px; padding: 24px;
  color: {INK}; background: #fff; font: 15px/1.5 system-ui, sans-serif
}}
h1 {{ margin: 0; font-size: 26px; overflow-wrap: anywhere }}
h2 {{ margin: 40px 0 8px; font-size: 19px }}
p {{ margin: 4px 0 16px; max-width: 72ch; color: {MUTED_TEXT} }}

.numbers {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }}
.numbers div {{
  flex: 1 1 110px; padding: 10px 14px; border: 1px solid {GRID}; border-radius: 8px
}}
.numbers b {{ display: block; font-size: 24px; font-variant-numeric: tabular-nums }}
.numbers span {{ color: {MUTED_TEXT}; font-size: 13px }}

table {{ border-collapse: collapse; margin: 12px 0 }}
th, td {{ padding: 4px 20px 4px 0; border-bottom: 1px solid #eef0f2; text-align: left }}
th {{ color: {MUTED_TEXT}; font-weight: normal; white-space: nowrap; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
td.number {{ white-space: nowrap; font-variant-numeric: tabular-nums }}
.wide {{ overflow-x: auto }}
.wide td:first-child {{ min-width: 7em }}

.plot {{ display: block; width: 100%; max-width: 960px; margin: 12px 0 }}

.images {{
  display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr))
}}
figure {{ margin: 0 }}
figure img {{ width: 100%; display: block }}
figcaption {{ font-size: 13px; color: {MUTED_TEXT}; overflow-wrap: anywhere }}
figcaption b {{ color: {INK} }}

.thumbnails {{
  display: grid; gap: 12px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(140px, 100%), 1fr))
}}
.thumbnails figure {{ max-width: 260px }}
.thumbnails figure img {{ height: 150px; object-fit: contain; background: #f3f4f6 }}
.thumbnails figcaption {{ font-size: 12px; line-height: 1.35; margin-top: 3px }}

.verdict {{
  margin: 16px 0; padding: 12px 16px; border-left: 6px solid {RIGHT}; background: #f3f6fa;
  font-size: 17px
}}
.verdict.bad {{ border-color: {WRONG}; background: #fdf3ec }}

.columns {{
  display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr))
}}
.columns .block {{ margin: 0 }}

h3 {{ margin: 0 0 4px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere }}
.block {{ margin: 14px 0; padding: 12px 14px; border: 1px solid {GRID}; border-radius: 8px }}
.badge {{
  display: inline-block; margin-right: 8px; padding: 0 8px; border-radius: 10px;
  font-size: 12px; font-weight: normal; line-height: 20px; vertical-align: 1px
}}
ul {{ margin: 4px 0 12px; padding-left: 20px }}
li {{ margin: 2px 0; overflow-wrap: anywhere }}
.block ul {{ color: {MUTED_TEXT}; font-size: 13px }}

.legend span {{ margin-right: 16px; white-space: nowrap }}
.legend i {{
  display: inline-block; width: 12px; height: 12px; margin-right: 6px; vertical-align: -1px
}}
"""


@dataclass(frozen=True)
class Gallery:
    """Images under one heading. `legend` holds the color (#rrggbb) of each class by its name.

    `scenes` are images whose boxes obey the controls of the page.
    """

    heading: str
    explanation: str
    items: Sequence[GalleryItem] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    scenes: Sequence[Scene] = ()


@dataclass(frozen=True)
class SceneControls:
    """The score threshold at which scenes are shown, and the classes they can be filtered by."""

    threshold: float
    classes: tuple[str, ...]

    @property
    def class_places(self) -> dict[str, int]:
        """The position of each class."""
        return {name: place for place, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Verdict:
    """The most important sentence of a page, and whether it is a good one."""

    text: str
    is_good: bool


@dataclass(frozen=True)
class Page:
    """The content of a report's page, in the order in which it is shown.

    `numbers` are the figures that matter most, None where one is not defined; `lines` are sentences
    that should be read first; `facts` is a table of two columns; `plots` are files of images; the
    rows of `table` have the same keys, which are its head. `controls` are needed where a gallery
    has scenes. What is empty is left out.
    """

    title: str
    subtitle: str
    numbers: Mapping[str, float | int | None]
    verdict: Verdict | None = None
    lines: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    plots: Sequence[Path] = ()
    table: Sequence[Mapping[str, str]] = ()
    galleries: Sequence[Gallery] = ()
    sections: Sequence[Section] = ()
    controls: SceneControls | None = None


def write_page(page: Page, path: Path) -> Path:
    """Write a page as an HTML file that embeds its images, and return its path."""
    # Reasons of failed trials come from studies that older versions have written.
    content = redact(render_page(page))
    with write_atomically(path) as file:
        file.write(content.encode())
    return path


def render_page(page: Page) -> str:
    """Return a page as HTML, with its images embedded."""
    parts = [
        f"<h1>{escape(page.title)}</h1><p>{escape(page.subtitle)}</p>",
        _render_verdict(page.verdict),
        _render_numbers(page.numbers),
        render_lines(page.lines),
        _render_facts(page.facts),
        _render_plots(page.plots),
        render_table(page.table),
    ]
    parts += [render_section(section) for section in page.sections]
    controls = page.controls
    if controls is not None:
        parts.append(render_controls(controls.threshold, controls.class_places))
    for place, gallery in enumerate(page.galleries):
        parts.append(_render_gallery(gallery, f"gallery{place}_", controls))
    body = "\n".join(part for part in parts if part)

    style = STYLE
    if controls is not None:
        style += SCENE_STYLE + CONTROL_STYLE
        body += f"\n<script>{SCRIPT}</script>"
    head = f'<meta charset="utf-8"><title>{escape(page.title)}</title><style>{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _render_verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    style = "verdict" if verdict.is_good else "verdict bad"
    return f'<div class="{style}">{escape(verdict.text)}</div>'


def _render_numbers(numbers: Mapping[str, float | int | None]) -> str:
    tiles = ""
    for name, value in numbers.items():
        text = _format_number(value)
        tiles += f"<div><b>{text}</b><span>{escape(name)}</span></div>"
    return f'<div class="numbers">{tiles}</div>'


def _format_number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


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
    return f"<h2>Plots</h2>\n{render_plots(plots)}"


def _render_gallery(gallery: Gallery, prefix: str, controls: SceneControls | None) -> str:
    """Return a gallery; prefix makes the ids of its images the only ones of their name."""
    if not (gallery.items or gallery.scenes):
        return ""

    images = ""
    if gallery.items:
        images = f'<div class="images">{render_figures(gallery.items)}</div>'
    if gallery.scenes and controls is not None:
        images += render_scenes(gallery.scenes, prefix, controls.threshold, controls.class_places)
    return (
        f"<h2>{escape(gallery.heading)}</h2><p>{escape(gallery.explanation)}</p>"
        f"{render_legend(gallery.legend)}{images}"
    )
