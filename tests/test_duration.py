"""Durations as people write them, and as the terminal shows them."""

import pytest

from detreg.sweeps.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("1h30m", 5400), ("1.5h", 5400), ("1h1m1s", 3661)],
)
def test_a_duration_is_parsed_to_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "1h30", "0m", "-1h", "2 h", "1d", "nan"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"a duration such as 90m, .* got '{text}'"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (65, "1:05"), (59.6, "1:00"), (3599.4, "59:59"), (3725, "1:02:05")],
)
def test_seconds_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
