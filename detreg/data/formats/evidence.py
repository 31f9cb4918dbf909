"""How sure it is that a folder holds a dataset of some format."""

from enum import IntEnum


class Evidence(IntEnum):
    """What a format finds in a folder."""

    NONE = 0
    """Nothing of the format."""

    WEAK = 1
    """A part of what belongs to it: what is missing will be an error."""

    LIKELY = 2
    """All that belongs to it, in files that others may write, too."""

    SURE = 3
    """Annotations that say themselves that they are of the format."""
