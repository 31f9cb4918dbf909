"""Whether a dataset has the images that a promise of recall is calibrated on."""

from detreg.data.canonical import read_canonical_copy
from detreg.data.dataset import Dataset
from detreg.errors import UsageError
from detreg.operating_rule import parse_operating_rule
from detreg.options import RunOptions


def check_calibration(dataset: Dataset, options: RunOptions) -> None:
    """Raise UsageError where operating_point=recall:... could not promise anything.

    The val split has chosen the checkpoint, all of it, so no part of it stands for new images: only
    a test split does.
    """
    rule = parse_operating_rule(options.operating_point)
    if rule.kind != "recall" or options.score_threshold is not None:
        return

    given = f"operating_point={options.operating_point}"
    if "test" not in dataset.splits:
        raise UsageError(
            f"{given} needs a test split: its promise is calibrated on images that did not choose "
            "the checkpoint, as val did; add one, or use operating_point=f1 or "
            "precision:0.9, which take val"
        )

    images = read_canonical_copy(dataset.splits["test"].annotations)
    num_images = sum(any(not box.crowd for box in image.boxes) for image in images)
    if num_images < rule.min_images:
        raise UsageError(
            f"{given} needs a test split of at least {rule.min_images} images with objects, to "
            f"promise anything about new ones; it has {num_images}: add images, or ask for less"
        )
