"""Which pages of other sites may read the server's answers (CORS)."""

import os
import re
from collections.abc import Mapping

from detreg.errors import UsageError

ORIGINS_VARIABLE = "DETREG_SERVE_CORS"

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
"""As browsers send it: in lower case, without a path."""


def read_allowed_origins(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the origins whose pages may read answers, `*` for all; none where it is not set.

    Raises UsageError for what is not an origin.
    """
    text = environment.get(ORIGINS_VARIABLE, "")
    origins = [part.strip() for part in text.split(",") if part.strip()]
    problems = [
        f"{ORIGINS_VARIABLE} must be * or origins such as https://shop.example, with commas "
        f"between them and without a path, got {origin[:200]!r}"
        for origin in origins
        if origin != "*" and not _ORIGIN.fullmatch(origin)
    ]
    if problems:
        raise UsageError(problems)
    return tuple(origins)
