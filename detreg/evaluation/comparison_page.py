"""The page of a comparison: the verdict, every difference with its interval, changed images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detreg.evaluation.comparison import Comparison, Difference
from detreg.evaluation.gallery import describe_outcome, draw_outcome
from detreg.evaluation.ground_truth import GroundTruth
from detreg.evaluation.outcomes import Outcome, match_split
from detreg.inference.detections import Detections
from detreg.report.figure import make_figure, save_figure, set_title, shorten_name, tidy_axes
from detreg.report.page import Page, Verdict, write_page
from detreg.report.section import Block, GalleryItem, Section
from detreg.report.theme import CLASS_COLORS, INK, MUTED, RIGHT, WRONG, get_class_color

IOU = 0.5
MAX_CHANGED_IMAGES = 6
"""Of each kind; more would make the page too heavy for MLflow's viewer."""
MAX_CLASSES = 30
MAX_IMAGES_NEEDED = 100_000
"""Of more than these it is not worth to tell how many would decide."""


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models: its name, what it finds on each image, by id, and its speed.

    Detections with a score of at least `threshold` are counted and drawn for single images.
    """

    name: str
    predictions: Mapping[int, Detections]
    threshold: float
    ms_per_image: float


@dataclass(frozen=True)
class ComparedImage:
    """What became of the objects of one image with either model."""

    image_id: int
    a: Outcome
    b: Outcome

    @property
    def change(self) -> int:
        """How many errors more B makes on the image."""
        return self.b.errors - self.a.errors


def write_comparison_page(
    folder: Path,
    title: str,
    truth: GroundTruth,
    models: tuple[ComparedModel, ComparedModel],
    comparison: Comparison,
    *,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write plot, drawn images and index.html, which shows them all, and return the files.

    `truth` has the classes and images that are compared; `notes` are sentences to be read first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    a, b = models
    compared = _compare_images(truth, a, b)
    plot = plot_differences(comparison, folder / "differences.png")
    better = _list_changed(compared, improved=True)
    worse = _list_changed(compared, improved=False)

    sections = [
        Section(
            "Every difference",
            "B minus A. The interval holds the difference in 95 % of the resamples of the images; "
            "one that does not hold 0 is more than luck.",
            table=[_make_row(name, part) for name, part in _list_differences(comparison).items()],
            plots=[plot],
        ),
        _make_gallery(folder, "better", "Images on which B is better", truth, models, better),
        _make_gallery(folder, "worse", "Images on which B is worse", truth, models, worse),
    ]
    page = Page(
        title=title,
        subtitle=f"{comparison.images:,} images, {len(truth.classes)} classes",
        numbers={
            "mAP of A": comparison.mAP.a,
            "mAP of B": comparison.mAP.b,
            "mAP_50 of A": comparison.mAP_50.a,
            "mAP_50 of B": comparison.mAP_50.b,
        },
        verdict=Verdict(describe_verdict(comparison), is_good=not comparison.mAP.is_worse),
        lines=[*notes, _count_images(compared)],
        facts=facts,
        sections=sections,
    )
    index = write_page(page, folder / "index.html")
    drawn = [item.file for part in sections for block in part.blocks for item in block.items]
    return [index, plot, *drawn]


def describe_verdict(comparison: Comparison) -> str:
    """Return in one sentence whether B is better, worse, or neither can be told."""
    difference = comparison.mAP
    if difference.value is None or difference.interval is None:
        return "These images have no object of a common class, so nothing can be compared"

    figures = (
        f"mAP {difference.b:.3f} against {difference.a:.3f}, "
        f"{difference.value:+.3f} (95 % interval {format_interval(difference)})"
    )
    if difference.is_better:
        return f"B is better: {figures}"
    if difference.is_worse:
        return f"B is worse: {figures}"
    return (
        f"{comparison.images:,} images do not show which is better: {figures}"
        f"{_describe_images_needed(comparison)}"
    )


def _describe_images_needed(comparison: Comparison) -> str:
    """Return how many images would show the difference; an empty text where that is no help.

    An interval becomes narrower with the root of the number of images.
    """
    difference = comparison.mAP
    if not difference.value or difference.interval is None:
        return ""
    half_width = (difference.interval.high - difference.interval.low) / 2
    needed = comparison.images * (half_width / abs(difference.value)) ** 2
    if not comparison.images < needed < MAX_IMAGES_NEEDED:
        return ""
    rounded = float(f"{needed:.1g}")
    return f"; if the difference is real, about {rounded:,.0f} images would show it"


def format_interval(difference: Difference) -> str:
    """Return the interval of a difference with its signs."""
    if difference.interval is None:
        return "-"
    return f"{difference.interval.low:+.3f} to {difference.interval.high:+.3f}"


def plot_differences(comparison: Comparison, path: Path) -> Path:
    """Plot each difference with its interval; of many classes those that differ most."""
    listed = _list_differences(comparison)
    differences = {name: part for name, part in listed.items() if part.value is not None}

    note = "Lines are 95 % intervals; gray ones hold 0, so the difference may be luck"
    figure = make_figure(height=1.4 + 0.32 * max(len(differences), 3))
    axes = figure.subplots()
    for row, difference in enumerate(differences.values()):
        color = _choose_color(difference)
        if difference.interval is not None:
            ends = (difference.interval.low, difference.interval.high)
            axes.plot(ends, (row, row), color=color, linewidth=2.5, solid_capstyle="round")
        axes.plot(
            difference.value or 0.0, row, "o", color=color, markersize=7, markeredgecolor="white"
        )

    axes.axvline(0, color=INK, linewidth=1, zorder=0)
    tidy_axes(axes, "", "A is better  ←  difference of average precision  →  B is better")
    axes.set_yticks(range(len(differences)), [shorten_name(name) for name in differences])
    axes.set_ylim(len(differences) - 0.4, -0.6)
    farthest = max(abs(end) for end in axes.get_xlim())
    axes.set_xlim(-farthest, farthest)
    axes.grid(visible=False, axis="y")
    set_title(axes, "B minus A", note)
    return save_figure(figure, path)


def _list_differences(comparison: Comparison) -> dict[str, Difference]:
    """Return all differences by the name that is shown; of many classes the largest ones."""
    classes = list(comparison.per_class.items())
    if len(classes) > MAX_CLASSES:
        classes.sort(key=lambda item: -abs(item[1].value or 0.0))
        classes = classes[:MAX_CLASSES]
    of_masks = {}
    if comparison.mask_mAP is not None:
        of_masks["mAP of masks"] = comparison.mask_mAP
    return {
        "mAP": comparison.mAP,
        "mAP_50": comparison.mAP_50,
        **of_masks,
        **{f"mAP, {name}": difference for name, difference in comparison.per_size.items()},
        **{f"AP of {name}": difference for name, difference in classes},
    }


def _make_row(name: str, difference: Difference) -> dict[str, str]:
    value = difference.value
    return {
        "": name,
        "A": _format_score(difference.a),
        "B": _format_score(difference.b),
        "B minus A": "-" if value is None else f"{value:+.3f}",
        "95 % interval": format_interval(difference),
        "verdict": _describe_direction(difference),
    }


def _format_score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _describe_direction(difference: Difference) -> str:
    if difference.value is None:
        return "no objects"
    if difference.is_better:
        return "better"
    return "worse" if difference.is_worse else "may be luck"


def _choose_color(difference: Difference) -> str:
    if difference.is_better:
        return RIGHT
    return WRONG if difference.is_worse else MUTED


def _compare_images(truth: GroundTruth, a: ComparedModel, b: ComparedModel) -> list[ComparedImage]:
    outcomes_a = match_split(truth, a.predictions, IOU, a.threshold)
    outcomes_b = match_split(truth, b.predictions, IOU, b.threshold)
    return [
        ComparedImage(image_id, outcomes_a[image_id], outcomes_b[image_id])
        for image_id in truth.images
    ]


def _count_images(compared: Sequence[ComparedImage]) -> str:
    better = sum(image.change < 0 for image in compared)
    worse = sum(image.change > 0 for image in compared)
    same = len(compared) - better - worse
    return f"B makes fewer errors on {better:,} images, more on {worse:,}, as many on {same:,}"


def _list_changed(compared: Sequence[ComparedImage], improved: bool) -> list[ComparedImage]:
    """Return the images that changed most in one direction, the most changed one first."""
    sign = -1 if improved else 1
    changed = [image for image in compared if sign * image.change > 0]
    changed.sort(key=lambda image: (-abs(image.change), image.image_id))
    return changed[:MAX_CHANGED_IMAGES]


def _make_gallery(
    folder: Path,
    kind: str,
    heading: str,
    truth: GroundTruth,
    models: tuple[ComparedModel, ComparedModel],
    chosen: Sequence[ComparedImage],
) -> Section:
    """Draw images, A's detections beside B's, in a block for each image."""
    legend = {}
    if len(truth.classes) <= len(CLASS_COLORS):
        legend = {name: get_class_color(label) for label, name in enumerate(truth.classes)}

    a, b = models
    blocks = []
    for place, compared in enumerate(chosen, start=1):
        image = truth.images[compared.image_id]
        items = []
        for letter, outcome in (("A", compared.a), ("B", compared.b)):
            path = folder / f"{kind}_{place}_{letter}.jpg"
            file = draw_outcome(image, outcome, path)
            items.append(GalleryItem(file, describe_outcome(outcome), letter))
        errors = f"{compared.a.errors} with A, {compared.b.errors} with B"
        title = f"{image.file.name}, errors: {errors}"
        blocks.append(Block(title, items=items, has_large_items=True))
    return Section(
        heading,
        f"Detections with a score of at least {a.threshold:.2f} (A) and {b.threshold:.2f} (B); "
        f"found means IoU of at least {IOU}. Objects are dashed in white; what is missed, confused "
        "or false has a thick line.",
        legend=legend if blocks else {},
        blocks=blocks,
    )
