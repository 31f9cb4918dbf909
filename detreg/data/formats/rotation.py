"""Tells of boxes that carry a rotation, as CVAT writes it beside the corners before the turn."""

import math

from detreg.data.findings import FindingKind, ProblemCollector, Severity

ROTATION_KEY = "rotation"
"""Name of the attribute, in degrees."""

_HALF_TURN = 180


def warn_of_rotation(value: object, where: str, problems: ProblemCollector) -> None:
    """Add a warning where a box at `where` is turned, so that its corners fit the object badly.

    value: the attribute as it was read, None where there is none.
    """
    if not isinstance(value, str | int | float):
        return
    try:
        degrees = float(value)
    except (ValueError, OverflowError):
        return
    if math.isfinite(degrees) and degrees % _HALF_TURN:
        problems.add(
            FindingKind.ORIENTED_BOX,
            Severity.WARNING,
            where,
            "box with a rotation read without it, so that it does not fit its object; "
            "draw it upright, or export polygons",
        )
