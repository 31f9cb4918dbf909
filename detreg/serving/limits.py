"""What a request to the served model may cost, and how many may wait."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from detreg.errors import UsageError

_MEGAPIXEL = 1_000_000
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of one server process.

    `max_requests` counts requests that run or wait to run; more are refused at once. A request has
    at most `max_body_bytes`, `max_images` and, in all of its images together, `max_pixels`.
    """

    max_requests: int = 16
    max_body_bytes: int = 32 * _MEBIBYTE
    max_images: int = 64
    max_pixels: int = 200 * _MEGAPIXEL

    @property
    def max_held_bytes(self) -> int:
        """Most bytes of bodies that all requests together may hold in memory."""
        return 2 * self.max_body_bytes

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Limits":
        """Read the limits that are set, and take the defaults for the others.

        Raises UsageError for values that are not positive integers.
        """
        problems: list[str] = []

        def read(name: str, default: int, unit: int = 1) -> int:
            text = environment.get(name, "")
            if not text:
                return default
            # isdigit holds for the digits of other scripts too, and int reads them.
            if not text.isdigit() or len(text) > 9 or int(text) < 1:
                problems.append(f"{name} must be a positive integer, got {text[:200]!r}")
                return default
            return int(text) * unit

        limits = cls(
            max_requests=read("DETREG_SERVE_MAX_REQUESTS", cls.max_requests),
            max_body_bytes=read("DETREG_SERVE_MAX_BODY_MB", cls.max_body_bytes, _MEBIBYTE),
            max_images=read("DETREG_SERVE_MAX_IMAGES", cls.max_images),
            max_pixels=read("DETREG_SERVE_MAX_MEGAPIXELS", cls.max_pixels, _MEGAPIXEL),
        )
        if problems:
            raise UsageError(problems)
        return limits
