"""Durations as text: `1h30m` as people write them, `1:30:00` as the terminal shows them."""

import re

_SECONDS_OF_UNIT = {"h": 3600, "m": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)([hms])")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90m`, `2h`, `1h30m` or `1.5h`.

    Raises:
        ValueError: With a phrase that completes "NAME must be ...", as `Param.parse` does.
    """
    seconds = 0.0
    read = ""
    for number, unit in _PART.findall(text):
        seconds += float(number) * _SECONDS_OF_UNIT[unit]
        read += number + unit

    # `findall` skips what it does not recognize, such as a sign or a space.
    if read != text or seconds == 0:
        raise ValueError(f"a duration such as 90m, 2h or 1h30m, got {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds as `1:02:03`, or as `2:03` under an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    if hour:
        return f"{hour}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"
