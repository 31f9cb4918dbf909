"""Declarations: what each type accepts and refuses, what the messages say, and the text form."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from detreg.errors import UsageError
from detreg.params import (
    Param,
    Value,
    boolean,
    build,
    choice,
    get_params,
    integer,
    number,
    numbers,
    size,
    suggest_spelling,
    text,
    to_changed_texts,
    to_plain,
    to_texts,
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One field of every type."""

    count: int = integer(8, 2, 32, 2, help="An integer on a grid")
    rate: float = number(0.001, 0.0, 1.0, help="A number without a step")
    ratio: float = number(1.5, 1.0, 5.0, 0.1, help="A number on a grid")
    flag: bool = boolean(True, help="A bool")
    color: str = choice("red", "red", "dark_green", help="A choice")
    source: str = choice("coco", "none", help="A choice that may be none")
    side: tuple[int, ...] = size(640, help="A size")
    lower: tuple[int, ...] | None = size(None, help="A size that may be empty")
    ratios: tuple[float, ...] = numbers((0.5, 1.0, 2.0), 0.1, 10.0, help="A list")
    data: str = text("sample", help="A text")
    name: str | None = text(None, help="A text that may be empty")

    def find_problems(self) -> list[str]:
        """Refuse one combination, as templates do."""
        if self.count == 32 and self.rate == 1.0:
            return ["count and rate do not go together"]
        return []


PARAMS = get_params(Example)

GOOD: list[tuple[str, object, Value]] = [
    ("count", "8", 8),
    ("count", " 8 ", 8),
    ("count", 2, 2),
    ("count", 32, 32),
    ("rate", "1e-3", 0.001),
    ("rate", 0, 0.0),
    ("rate", "1", 1.0),
    ("ratio", "1.7", 1.7),
    ("flag", "TRUE", True),
    ("flag", "no", False),
    ("flag", "0", False),
    ("flag", False, False),
    ("color", "dark_green", "dark_green"),
    ("source", "none", "none"),
    ("source", None, "none"),
    ("side", "640", (640,)),
    ("side", 640, (640,)),
    ("side", "800, 512", (800, 512)),
    ("side", [800, 512], (800, 512)),
    ("side", (64,), (64,)),
    ("lower", "none", None),
    ("lower", None, None),
    ("lower", "2048", (2048,)),
    ("ratios", "0.5,1,2", (0.5, 1.0, 2.0)),
    ("ratios", 1, (1.0,)),
    ("ratios", [0.1, 10], (0.1, 10.0)),
    ("data", "/data/boats", "/data/boats"),
    ("name", "none", None),
    ("name", "my run", "my run"),
]

BAD: list[tuple[str, object]] = [
    ("count", "eight"),
    ("count", ""),
    ("count", "none"),
    ("count", None),
    ("count", True),
    ("count", 0),
    ("count", 34),
    ("count", 3),
    ("count", "8.5"),
    ("count", 8.5),
    ("count", [8]),
    ("count", math.inf),
    ("rate", "fast"),
    ("rate", "nan"),
    ("rate", math.nan),
    ("rate", "inf"),
    ("rate", "-inf"),
    ("rate", False),
    ("rate", -0.001),
    ("rate", 1.001),
    ("rate", "1e999"),
    ("ratio", 0.9),
    ("ratio", 5.1),
    ("ratio", 1.55),
    ("ratio", "1.05"),
    ("flag", "maybe"),
    ("flag", 2),
    ("flag", None),
    ("flag", ""),
    ("color", "none"),
    ("color", "blue"),
    ("color", 1),
    ("source", "imagenet"),
    ("side", "640x480"),
    ("side", "64,96,128"),
    ("side", ""),
    ("side", []),
    ("side", 32),
    ("side", 2080),
    ("side", 650),
    ("side", "640,650"),
    ("side", 640.5),
    ("side", "none"),
    ("lower", "650"),
    ("lower", True),
    ("ratios", ""),
    ("ratios", []),
    ("ratios", [1.0] * 9),
    ("ratios", "1,nan"),
    ("ratios", "0.05"),
    ("ratios", "1,true"),
    ("data", ""),
    ("data", None),
    ("data", 3),
    ("name", ""),
]


@pytest.mark.parametrize(("name", "given", "value"), GOOD)
def test_a_good_value_is_parsed_to_its_type(name: str, given: object, value: Value) -> None:
    parsed = PARAMS[name].parse(given)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("name", "given"), BAD)
def test_a_bad_value_is_refused_with_name_and_domain(name: str, given: object) -> None:
    with pytest.raises(UsageError) as caught:
        build(Example, {name: given})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} must be {PARAMS[name].domain}, got ")
    assert "\n" not in problem


@pytest.mark.parametrize(("name", "given", "value"), GOOD)
def test_the_text_form_gives_the_value_back(name: str, given: object, value: Value) -> None:
    param = PARAMS[name]
    text = param.format(value)
    assert text
    assert param.parse(text) == value
    assert param.format(param.parse(text)) == text


@pytest.mark.parametrize("value", [0.01 / 64, 1e-7, 0.1 + 0.2, 1 / 3, 5e-324])
def test_a_float_keeps_its_last_digit_in_its_text_form(value: float) -> None:
    assert PARAMS["rate"].parse(PARAMS["rate"].format(value)) == value


@pytest.mark.parametrize("steps", range(41))
def test_every_step_of_a_float_grid_is_found_despite_rounding_errors(steps: int) -> None:
    exact = round(1.0 + steps / 10, 1)
    product = 1.0 + steps * 0.1
    total = sum([0.1] * steps, 1.0)
    for given in (exact, repr(exact), product, total):
        assert PARAMS["ratio"].parse(given) == exact


def test_seven_steps_of_a_tenth_are_seven_tenths() -> None:
    param = Param("float", 0.5, "", 0.0, 1.0, 0.1)
    assert param.parse(0.7) == param.parse("0.7") == param.parse(0.7000000000000001) == 0.7
    with pytest.raises(ValueError, match=r"the nearest are 0\.7 and 0\.8"):
        param.parse(0.75)


def test_the_nearest_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"the nearest are 640 and 672"):
        PARAMS["side"].parse("650")


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("count", "an integer from 2 to 32 in steps of 2"),
        ("rate", "a number from 0 to 1"),
        ("ratio", "a number from 1 to 5 in steps of 0.1"),
        ("flag", "true or false"),
        ("color", "one of red, dark_green"),
        ("source", "one of coco, none"),
        ("side", "one integer or two (width,height), each from 64 to 2048 in steps of 32"),
        (
            "lower",
            "none, or one integer or two (width,height), each from 64 to 2048 in steps of 32",
        ),
        ("ratios", "1 to 8 numbers, each from 0.1 to 10"),
        ("data", "text"),
        ("name", "none, or text"),
    ],
)
def test_the_domain_in_words(name: str, domain: str) -> None:
    assert PARAMS[name].domain == domain


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        build(Example, {"count": 99, "cuont": 8, "rate": "nan", "data": "fine", "ratios": []})
    problems = caught.value.problems
    assert len(problems) == 4
    for name in ("count must be", "cuont", "rate must be", "ratios must be"):
        assert any(name in problem for problem in problems)
    assert str(caught.value) == "\n".join(problems)


def test_a_combination_is_checked_when_each_value_is_good() -> None:
    with pytest.raises(UsageError, match="count and rate do not go together"):
        build(Example, {"count": 32, "rate": 1})
    assert build(Example, {"count": 32, "rate": 0.5}).rate == 0.5


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("cuont", " (did you mean count?)"),
        ("COUNT", " (did you mean count?)"),
        ("colors", " (did you mean color?)"),
        ("ratio-s", " (did you mean ratios?)"),
        ("zzz", ""),
    ],
)
def test_a_near_name_is_suggested(word: str, suggestion: str) -> None:
    assert suggest_spelling(word, tuple(PARAMS)) == suggestion

    with pytest.raises(UsageError) as caught:
        build(Example, {word: "1"})
    assert caught.value.problems == (f"unknown parameter {word}{suggestion}",)


def test_a_near_choice_is_suggested() -> None:
    with pytest.raises(UsageError, match=r"did you mean dark_green\?"):
        build(Example, {"color": "dark-gren"})


def test_a_missing_value_takes_its_default() -> None:
    assert build(Example, {}) == Example()
    assert build(Example, {"count": "16"}) == Example(count=16)


def test_texts_and_plain_values_of_an_instance() -> None:
    example = build(Example, {"lower": "320", "flag": "off", "name": "boats"})
    assert build(Example, to_texts(example)) == example
    assert build(Example, to_plain(example)) == example
    assert to_texts(example)["side"] == "640"
    assert to_texts(example)["ratios"] == "0.5,1,2"
    assert to_texts(Example())["lower"] == to_texts(Example())["name"] == "none"
    assert to_plain(example)["lower"] == [320]
    assert to_plain(example)["flag"] is False


def test_changed_texts_leave_out_the_defaults() -> None:
    assert to_changed_texts(Example()) == {}
    example = build(Example, {"count": "8", "ratio": "1.7", "lower": "320"})
    assert to_changed_texts(example) == {"ratio": "1.7", "lower": "320"}


def test_json_has_null_where_a_key_does_not_apply() -> None:
    assert PARAMS["flag"].as_json() == {
        "name": "flag",
        "type": "bool",
        "default": True,
        "minimum": None,
        "maximum": None,
        "step": None,
        "choices": None,
        "help": "A bool",
    }
    assert PARAMS["side"].as_json()["step"] == 32


def test_a_default_belongs_to_its_choices() -> None:
    assert PARAMS["source"].choices == ("coco", "none")
    assert PARAMS["color"].choices == ("red", "dark_green")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Param(cast(Any, "real"), 0.5, ""), "type must be one of .*, got 'real'"),
        (lambda: Param("int", 1, "", minimum=0), "must have a minimum and a maximum"),
        (lambda: Param("choice", "red", ""), "must have choices"),
        (lambda: integer(3, 2, 32, 2, help=""), "default must be an integer from 2 .*, got 3"),
        (lambda: number(2.0, 0.0, 1.0, help=""), "default must be a number .*, got 2.0"),
        (lambda: size(650, help=""), "the nearest are 640 and 672"),
        (lambda: text("", help=""), "default must be text, got ''"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(
    declare: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        declare()
