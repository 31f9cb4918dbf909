"""Parts of an MMDetection configuration, and what templates do with them."""

from collections.abc import Sequence
from typing import Any

# MMEngine builds parts from nested dicts and types nothing in them, so this is where `Any` enters.
Config = dict[str, Any]
"""A part of an MMDetection configuration."""


def select_transforms(pipeline: Sequence[Config], *types: str) -> list[Config]:
    """Return the transforms of a pipeline that are of one of the types, in their order."""
    return [transform for transform in pipeline if transform["type"] in types]


def to_height_ratios(ratios: Sequence[float]) -> list[float]:
    """Convert anchor ratios from width to height, as declared, to height to width.

    MMDetection counts them so, in ascending order.
    """
    return sorted(1 / ratio for ratio in ratios)
