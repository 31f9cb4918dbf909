"""Loads a dataset of any format, checks it, and brings it into one canonical form.

data, in any format -> formats.read -> check_dataset -> canonical copy -> Dataset
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from detreg.data import formats
from detreg.data.canonical import write_canonical_copy
from detreg.data.check import CheckResult, check_dataset, count_boxes
from detreg.data.digest import compute_digest, compute_masks_digest, hash_paths
from detreg.data.finding_groups import group_findings
from detreg.data.findings import Severity, count_repairs, has_errors, list_problems
from detreg.data.garbage_collection import pause_garbage_collection
from detreg.data.image_hashes import write_image_hashes
from detreg.data.looks import DatasetLooks
from detreg.data.mask_check import count_masks
from detreg.data.screen import format_problems
from detreg.data.source import name_format, open_source
from detreg.data.traits import DatasetTraits, measure_traits
from detreg.environment import resolve_cache_folder
from detreg.errors import DataError
from detreg.progress import Progress

_MAX_PROBLEMS_LISTED = 10
"""More problems than these are grouped."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    annotations: path of its canonical COCO file.
    boxes, boxes_per_class: without crowd regions; the latter in the order of the classes.
    masks: how many of the boxes have a mask, where masks were asked for.
    """

    name: str
    annotations: Path
    images: int
    boxes: int
    boxes_per_class: tuple[int, ...]
    masks: int = 0


@dataclass(frozen=True)
class Dataset:
    """A checked dataset with its canonical copy in `folder`.

    origin: what the user has: the absolute path of a folder or an archive, or "sample".
    format: "coco", "roboflow", "voc", "yolo" or "sample".
    splits: always "train" and "val", and "test" where the dataset has one.
    traits: what its train split is like, to be compared with other datasets.
    digest: 16 hex digits over classes, splits, image files and boxes; the same wherever the
        dataset lies and whatever its format.
    repairs: what was mended in the canonical copy, with how often.
    left_out: a line for each error of an image that was left out.
    warnings: how many there are; `repairs` says which.
    root: the folder that was read: `origin`, a folder in it, or what it was unpacked to.
    looks: how the images look, None where they are too many to be compared unasked.
    masks_digest: 16 hex digits over what `digest` covers and masks; empty without masks.
    """

    name: str
    origin: str
    format: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    traits: DatasetTraits
    digest: str
    folder: Path
    repairs: Mapping[str, int]
    left_out: tuple[str, ...] = ()
    warnings: int = 0
    root: Path = Path()
    looks: DatasetLooks | None = None
    masks_digest: str = ""


@pause_garbage_collection()
def load_dataset(
    data: str | Path,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    *,
    on_bad_image: str = "refuse",
    masks: bool = False,
) -> Dataset:
    """Check the dataset at `data` and write its canonical copy into the cache.

    data: "sample", a folder, or a zip or tar of a folder.
    cache: a folder, by default that of `resolve_cache_folder`.
    progress: is told what is being done.
    on_bad_image: "skip" leaves out the images that cannot be used, as the run option says.
    masks: whether masks are read and checked, too, and written into a copy of its own.

    Raises DataError with every problem of the dataset, NotFoundError where there is none.
    """
    progress = progress or Progress()
    cache_folder = resolve_cache_folder(cache)
    source = open_source(data, cache_folder, masks=masks)
    progress.begin("reading annotations")
    raw = formats.read(source.folder, cache_folder)
    leaves_out = on_bad_image == "skip"
    result = check_dataset(raw, cache_folder, progress, leaves_out=leaves_out, with_masks=masks)

    if has_errors(result.findings):
        raise DataError(_describe_problems(result, data, masks=masks))

    progress.begin("writing the canonical copy")
    digest = compute_digest(raw.classes, result.splits)
    # The copy names absolute paths: one dataset at two places has one digest and two copies.
    masks_digest = compute_masks_digest(digest, result.splits) if masks else ""
    name_of_copy = f"{masks_digest or digest}-{hash_paths(result.splits)}"
    folder = cache_folder / "datasets" / (f"{name_of_copy}-masks" if masks else name_of_copy)
    paths = write_canonical_copy(folder, raw.classes, result.splits)
    write_image_hashes(folder, result.splits)

    splits = {}
    for name, images in result.splits.items():
        counts = count_boxes(images, raw.classes)
        num_masks = count_masks(images) if masks else 0
        splits[name] = Split(name, paths[name], len(images), sum(counts), counts, num_masks)

    return Dataset(
        name=source.name,
        origin=source.origin,
        format=name_format(source, raw),
        classes=raw.classes,
        splits=MappingProxyType(splits),
        traits=measure_traits(result.splits["train"], len(raw.classes)),
        digest=digest,
        folder=folder,
        repairs=MappingProxyType(count_repairs(result.findings)),
        left_out=list_problems(result.left_out),
        warnings=sum(finding.severity is Severity.WARNING for finding in result.findings),
        root=raw.folder,
        looks=result.looks,
        masks_digest=masks_digest,
    )


def _describe_problems(result: CheckResult, data: str | Path, *, masks: bool) -> list[str]:
    """Return at most a screenful of problems, and a line that says where all of them are listed."""
    problems = list_problems(result.findings)
    total = len(problems) + len(result.left_out)
    command = f"detreg check {data} --masks --json" if masks else f"detreg check {data} --json"
    advice = f"{data}: {total} problems; `{command}` lists all of them"
    if len(problems) > _MAX_PROBLEMS_LISTED:
        return [*format_problems(group_findings(result.findings)), advice]
    # Problems of images that are left out may explain what is missing.
    return [*problems, advice] if result.left_out else list(problems)
