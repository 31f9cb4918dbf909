"""What messages show of values that anyone may have written."""

import pytest

from detreg.errors import (
    MAX_VALUE_LENGTH,
    DataError,
    is_storable,
    make_printable,
    quote,
    shorten,
)


def make_bomb() -> list[object]:
    """Return a list of ten billion values, which takes no memory."""
    value: list[object] = ["x"]
    for _ in range(10):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [make_bomb(), "x" * 10**6, 10**10_000, {"a" * 10**5: make_bomb()}, "\ud800", b"\0" * 10**5],
    ids=["bomb", "text", "number", "key", "half a character", "bytes"],
)
def test_any_value_is_quoted_in_a_bounded_line(value: object) -> None:
    text = quote(value)
    assert len(text) <= MAX_VALUE_LENGTH
    assert text.isprintable()


@pytest.mark.parametrize("value", ["boat", 7, 0.5, None, True, [1, "a"], {"a": [1.5]}, "it's"])
def test_a_short_value_is_quoted_as_python_writes_it(value: object) -> None:
    assert quote(value) == repr(value)


def test_a_line_keeps_its_start_and_its_end() -> None:
    text = "images.json: " + "x" * 5000 + "; rename it"
    assert len(shorten(text)) == MAX_VALUE_LENGTH
    assert shorten(text).startswith("images.json: xxx")
    assert shorten(text).endswith("xxx; rename it")
    assert shorten("short") == "short"


def test_problems_are_single_lines_that_can_be_printed() -> None:
    error = DataError("a\nb\x1b[2Jc\ud800d\u202ee é" + "x" * 10**6)
    (problem,) = error.problems
    assert problem.startswith(r"a b\x1b[2Jc\ud800d\u202ee é")
    assert problem.isprintable()
    assert len(problem) <= 2000
    assert make_printable("plain é 船") == "plain é 船"


def test_a_password_is_hidden_before_a_line_is_cut() -> None:
    error = DataError("https://me:" + "secret" * 300 + "@host/ cannot be read")
    assert "secret" not in str(error)


def test_names_are_storable_unless_a_terminal_obeys_them() -> None:
    for name in ("boat", "sail boat", "船", "a\tb", "x" * 200):
        assert is_storable(name)
    for name in ("\x1b[2J", "a\0", "\ud800", "x" * 201):
        assert not is_storable(name)
