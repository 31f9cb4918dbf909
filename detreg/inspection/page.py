"""The page of a dataset: the verdict, what was found, its numbers and its images, in one file."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detreg.data.finding_groups import FindingGroup
from detreg.data.findings import Severity
from detreg.data.raw import RawDataset
from detreg.data.screen import count_findings
from detreg.errors import make_printable
from detreg.inspection.galleries import MAX_GROUPS, Gallery
from detreg.inspection.measurements import Measurements
from detreg.inspection.places import PlaceFinder
from detreg.inspection.plots import plot_box_sizes, plot_classes, plot_images, plot_positions
from detreg.inspection.training_size import SMALL, compute_scales, resize_boxes
from detreg.inspection.wording import count_of, format_share
from detreg.report.page import Page, Verdict, write_page
from detreg.report.section import Block, GalleryItem, Section
from detreg.report.theme import CLASS_COLORS, get_class_color


@dataclass(frozen=True)
class DatasetPage:
    """What is known of a dataset, for its page.

    facts: such as where it lies and its digest, by name.
    groups: what was found, the most harmful first.
    raw: the dataset as it was read, None where only its canonical copy is known.
    preview: images as a training sees them.
    warnings: how many there are, where what was found is not known.
    """

    title: str
    facts: Mapping[str, str]
    measured: Measurements
    groups: Sequence[FindingGroup] = ()
    raw: RawDataset | None = None
    preview: Sequence[GalleryItem] = field(default_factory=tuple)
    warnings: int = 0


def write_dataset_page(dataset: DatasetPage, path: Path) -> Path:
    """Write the page as one HTML file that needs no other, and return its path."""
    with tempfile.TemporaryDirectory(prefix="detreg-page-") as temporary:
        folder = Path(temporary)
        gallery = Gallery(dataset.measured, folder)
        sections = [
            _show_findings(dataset, gallery),
            _show_classes(dataset.measured, folder),
            _show_images(dataset.measured, folder),
            _show_boxes(dataset.measured, folder),
            _show_outliers(gallery),
            *_show_pixels(dataset.measured, gallery),
            _show_random_images(dataset.measured, gallery),
            _show_preview(dataset),
        ]
        page = Page(
            title=make_printable(dataset.title),
            subtitle=_describe(dataset.measured),
            numbers=_list_numbers(dataset),
            verdict=_judge(dataset),
            lines=[make_printable(str(advice)) for advice in dataset.measured.advice],
            facts={name: make_printable(text) for name, text in dataset.facts.items()},
            table=_list_splits(dataset.measured),
            sections=sections,
        )
        return write_page(page, path)


def _describe(measured: Measurements) -> str:
    images = measured.statistics.images
    size = f"{images.width.median:.0f} x {images.height.median:.0f} px"
    kinds = count_of(len(measured.statistics.classes), "class", "classes")
    return f"{kinds}; images of {size} (median)" if images.count else kinds


def _list_numbers(dataset: DatasetPage) -> dict[str, int]:
    statistics = dataset.measured.statistics
    numbers = {
        "images": statistics.images.count,
        "boxes": statistics.boxes.count,
        "classes": len(statistics.classes),
    }
    # A training's dataset is good, and its page has no findings.
    if dataset.raw is None and not dataset.groups:
        return numbers
    for severity, name in (
        (Severity.ERROR, "errors"),
        (Severity.WARNING, "warnings"),
        (Severity.REPAIR, "repairs"),
    ):
        numbers[name] = count_findings(dataset.groups, severity)
    return numbers


def _judge(dataset: DatasetPage) -> Verdict:
    """Return whether the dataset can be trained on."""
    groups = dataset.groups
    errors = count_findings(groups, Severity.ERROR)
    if errors:
        kinds = sum(group.severity is Severity.ERROR for group in groups)
        text = (
            f"Refused: {count_of(errors, 'error')} of {count_of(kinds, 'kind')} would change what "
            "is learned. Training starts when they are mended."
        )
        return Verdict(text, is_good=False)

    warnings = count_findings(groups, Severity.WARNING) or dataset.warnings
    if warnings:
        text = f"Good, with {count_of(warnings, 'warning')}: scores or training may suffer."
        return Verdict(text, is_good=True)
    return Verdict("Good: nothing was found that would change what is learned.", is_good=True)


def _list_splits(measured: Measurements) -> list[dict[str, str]]:
    """Return a row for each split."""
    statistics = measured.statistics
    rows = []
    for split, empty in statistics.images.empty_per_split.items():
        images = measured.table.splits.count(split)
        boxes = sum(entry.boxes_per_split[split] for entry in statistics.classes)
        rows.append(
            {
                "split": split,
                "images": f"{images:,}",
                "boxes": f"{boxes:,}",
                "boxes per image": f"{boxes / images:.1f}",
                "without objects": f"{empty:,} ({format_share(empty / images)})",
            }
        )
    return rows


def _show_findings(dataset: DatasetPage, gallery: Gallery) -> Section:
    places = PlaceFinder(dataset.raw) if dataset.raw is not None else None
    blocks = [gallery.draw_findings(group, places) for group in dataset.groups[:MAX_GROUPS]]
    hidden = dataset.groups[MAX_GROUPS:]
    if hidden:
        count = sum(group.count for group in hidden)
        title = f"and {count:,} more of {count_of(len(hidden), 'kind')}"
        blocks.append(Block(title, lines=["detreg check DATA --json lists all of them"]))
    return Section(
        "What was found",
        "Errors would change what is learned and are never repaired in silence; repairs are made "
        "in detreg's own copy. The box that is meant is orange, others are white.",
        blocks=blocks,
    )


def _show_classes(measured: Measurements, folder: Path) -> Section:
    statistics = measured.statistics
    if not statistics.boxes.count:
        return Section("Classes")
    lines = []
    if statistics.imbalance is not None and len(statistics.classes) > 1:
        lines.append(
            f"The most frequent class has {statistics.imbalance:.1f} times as many boxes as the "
            "rarest one."
        )
    plot = plot_classes(statistics.classes, folder / "classes.png")
    return Section("Classes", lines=lines, plots=[plot])


def _show_images(measured: Measurements, folder: Path) -> Section:
    if not measured.table.images:
        return Section("Images")
    return Section("Images", plots=[plot_images(measured.table, folder / "images.png")])


def _show_boxes(measured: Measurements, folder: Path) -> Section:
    """Return the plots of the boxes, at the training size where there is a template."""
    table, training = measured.table, measured.training
    if not len(table.labels):
        return Section("Boxes")

    explanation = "In pixels of the images as they are; --template shows them as training does."
    shapes = table.box_sizes
    ratios: tuple[float, ...] = ()
    if training is not None and measured.plan is not None:
        shapes = resize_boxes(table, compute_scales(table, measured.plan))
        explanation = f"In pixels at the size of training: {training}."
        ratios = training.anchor_ratios or ()

    small = float((shapes.min(axis=1) < SMALL).mean())
    size_note = f"dashed: {SMALL} px; {format_share(small)} of the boxes are under it"
    anchor_note = "rectangles: nine anchors by k-means"
    plots = [
        plot_box_sizes(shapes, SMALL, size_note, ratios, folder / "box_sizes.png"),
        plot_positions(table, shapes, anchor_note, folder / "positions.png"),
    ]
    return Section("Boxes", explanation, plots=plots)


def _show_outliers(gallery: Gallery) -> Section:
    return Section(
        "Boxes that stand out",
        "Rare shapes are often slips of the mouse; see whether they are meant.",
        blocks=gallery.draw_outliers(),
    )


def _show_pixels(measured: Measurements, gallery: Gallery) -> list[Section]:
    pixels = measured.pixels
    if pixels is None:
        return []
    copies = len(pixels.near_copies)
    explanation = (
        f"{count_of(copies, 'group')} of images that look the same. Across splits, such copies "
        "flatter the scores."
    )
    return [
        Section("Near copies", explanation, blocks=gallery.draw_copies(pixels), in_columns=True),
        Section(
            "Dark, blurred and blank images",
            "See whether objects can be made out in them.",
            blocks=gallery.draw_flaws(pixels),
        ),
    ]


def _show_random_images(measured: Measurements, gallery: Gallery) -> Section:
    classes = measured.table.classes
    legend = {}
    if len(classes) <= len(CLASS_COLORS):
        names = [make_printable(name) for name in classes]
        legend = {name: get_class_color(label) for label, name in enumerate(names)}
    return Section(
        "Random images",
        "Some images of each class, whose boxes have its color; boxes of other classes are white.",
        legend=legend,
        blocks=gallery.draw_random(),
    )


def _show_preview(dataset: DatasetPage) -> Section:
    if not dataset.preview:
        return Section("What training sees")
    block = Block("The first images of an epoch, augmented", items=dataset.preview)
    return Section(
        "What training sees",
        "Images as the network gets them, with their boxes: resized, mixed and changed at random.",
        blocks=[block],
    )
