"""A dataset in a few words."""

from detreg.data.dataset import Dataset

_MOST_CLASSES = 10


def describe_dataset(dataset: Dataset) -> str:
    """Return a line on the dataset, and a line for each kind of repair that was made."""
    counts = [f"{split.images} {name}" for name, split in dataset.splits.items()]
    classes = ", ".join(dataset.classes[:_MOST_CLASSES])
    if len(dataset.classes) > _MOST_CLASSES:
        classes += " ..."

    lines = [
        f"Dataset {dataset.name} ({dataset.format}, digest {dataset.digest}): "
        f"{', '.join(counts)} images; classes {classes}"
    ]
    for sentence, count in dataset.repairs.items():
        lines.append(f"  repaired: {sentence} ({count})")
    return "\n".join(lines)
