"""One declared value: how it is parsed, checked, described and written as text."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypedDict

from detreg.errors import quote, shorten
from detreg.params.spelling import suggest_spelling
from detreg.redaction import refuse_credential

ParamType = Literal["int", "float", "bool", "choice", "size", "numbers", "text"]
Value = bool | int | float | str | tuple[float, ...] | None
ImageSize = tuple[int, ...]
"""One integer (the smaller side) or two (width, height), in pixels."""

NONE = "none"
AUTO = "auto"
"""The text of a value that the template finds: None in Python until `Template.resolve`."""

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")

_MAX_NUMBERS = 8
_DOMAINS = {
    "bool": "true or false",
    "text": "text",
    "int": "an integer",
    "float": "a number",
    "size": "one integer or two (width,height), each",
    "numbers": f"1 to {_MAX_NUMBERS} numbers, each",
}
_NUMERIC = ("int", "float", "size", "numbers")

_TOLERANCE = 1e-8  # Optuna suggests 0.6000000000000001, and people type 0.7 for seven steps of 0.1


class ParamJson(TypedDict):
    """What `detreg templates --json` prints of a param; null where a key does not apply."""

    name: str
    type: ParamType
    default: Value
    minimum: float | None
    maximum: float | None
    step: float | None
    choices: tuple[str, ...] | None
    help: str


@dataclass(frozen=True)
class Param:
    """One declared value: its type, default, domain and help; `name` is that of the field.

    Raises:
        ValueError: the declaration contradicts itself.
    """

    type: ParamType
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    optional: bool = False
    empty: str = NONE
    """The word for None of an optional value: `none`, or `auto` if the template finds a value."""
    also: tuple[int, ...] = ()
    """Numbers off the grid of `step` that are allowed too, such as a published size."""
    search: str | None = None
    """What a sweep searches by default, written as in its option `space`; None keeps the value."""
    name: str = ""

    def __post_init__(self) -> None:
        """Check that the declaration is complete and that its default is in its own domain."""
        if self.type not in _PARSERS:
            raise ValueError(f"type must be one of {', '.join(_PARSERS)}, got {self.type!r}")
        if self.type in _NUMERIC and (self.minimum is None or self.maximum is None):
            raise ValueError(f"a param of type {self.type} must have a minimum and a maximum")
        if self.type == "choice" and not self.choices:
            raise ValueError("a param of type choice must have choices")
        try:
            self.parse(self.default)
        except ValueError as error:
            raise ValueError(f"default must be {error}") from error

    def parse(self, value: object) -> Value:
        """Return the typed value of a text or of a Python value.

        Raises:
            ValueError: the value has another type or is out of the domain; the message completes
                "NAME must be ...".
        """
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            value = value.strip()

        word = NONE if value is None else str(value).lower()
        if self.optional and (value is None or word == self.empty):
            return None

        if word == NONE:
            # `none` may be one of the choices: None in Python and NONE in text stand for it then.
            if self.choices is None or NONE not in self.choices:
                raise ValueError(f"{self.domain}, got none")
            value = NONE
        return _PARSERS[self.type](self, value)

    def format(self, value: Value) -> str:
        """Return the text form of a typed value; `parse` gives the value back."""
        if value is None:
            return self.empty
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return ",".join(_format_number(item) for item in value)
        if isinstance(value, float):
            return _format_number(value)
        return str(value)

    @property
    def domain(self) -> str:
        """The domain in words, for messages, help texts and tables."""
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        elif self.minimum is None or self.maximum is None:
            words = _DOMAINS[self.type]
        else:
            low = _format_number(self.minimum)
            high = _format_number(self.maximum)
            words = f"{_DOMAINS[self.type]} from {low} to {high}"

        if self.step and self.step != 1:
            words += f" in steps of {_format_number(self.step)}"
        for number in self.also:
            words += f", or {number}"
        if self.optional:
            words = f"{self.empty}, or {words}"
        return words

    def as_json(self) -> ParamJson:
        """Return what `detreg templates --json` prints."""
        is_auto = self.default is None and self.empty == AUTO
        return {
            "name": self.name,
            "type": self.type,
            "default": AUTO if is_auto else self.default,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "step": self.step,
            "choices": self.choices,
            "help": self.help,
        }


def _format_number(value: float) -> str:
    """Write a number to its last digit, and a whole one without a decimal point."""
    if float(value).is_integer():
        return str(int(value))
    return repr(float(value))


def _parse_number(param: Param, value: object) -> float:
    number = _convert_to_float(param, value)
    is_below = param.minimum is not None and number < param.minimum
    is_above = param.maximum is not None and number > param.maximum
    if not math.isfinite(number) or is_below or is_above:
        raise ValueError(f"{param.domain}, got {shorten(str(value))}")

    if number in param.also or param.minimum is None or not param.step:
        return number
    return _snap_to_step(param, number, param.minimum, param.step)


def _convert_to_float(param: Param, value: object) -> float:
    refusal = ValueError(f"{param.domain}, got {quote(value)}")

    # bool is an int in Python; float() also reads 1_0 and the digits of other scripts.
    if isinstance(value, bool):
        raise refusal
    if isinstance(value, str):
        if not value.isascii() or "_" in value:
            raise refusal
    elif not isinstance(value, Real):
        raise refusal

    try:
        return float(value)
    except (ValueError, OverflowError):
        raise refusal from None


def _snap_to_step(param: Param, number: float, minimum: float, step: float) -> float:
    """Return the value on the grid that a number with a rounding error stands for."""
    steps = (number - minimum) / step
    if abs(steps - round(steps)) > _TOLERANCE:
        below = minimum + math.floor(steps) * step
        above = below + step
        nearest = f"{_format_number(round(below, 10))} and {_format_number(round(above, 10))}"
        raise ValueError(
            f"{param.domain}, got {_format_number(number)} (the nearest are {nearest})"
        )
    return float(round(minimum + round(steps) * step, 10))


def _parse_integer(param: Param, value: object) -> int:
    number = _parse_number(param, value)
    if not number.is_integer():
        raise ValueError(f"{param.domain}, got {shorten(str(value))}")
    return int(number)


def _parse_boolean(param: Param, value: object) -> bool:
    word = str(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{param.domain}, got {quote(value)}")


def _parse_choice(param: Param, value: object) -> str:
    choices = param.choices or ()
    if not isinstance(value, str) or value not in choices:
        suggestion = suggest_spelling(str(value), choices)
        raise ValueError(f"{param.domain}, got {quote(value)}{suggestion}")
    return value


def _parse_size(param: Param, value: object) -> ImageSize:
    items = _split(value)
    if len(items) not in (1, 2):
        raise ValueError(f"{param.domain}, got {quote(value)}")
    return tuple(_parse_integer(param, item) for item in items)


def _parse_numbers(param: Param, value: object) -> tuple[float, ...]:
    items = _split(value)
    if not 1 <= len(items) <= _MAX_NUMBERS:
        raise ValueError(f"{param.domain}, got {quote(value)}")
    return tuple(_parse_number(param, item) for item in items)


def _split(value: object) -> Sequence[object]:
    """Return the items of a comma-separated text or of a sequence; a single value is one item."""
    if isinstance(value, str):
        return value.split(",")
    if isinstance(value, Sequence):
        return value
    return [value]


def _parse_text(param: Param, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{param.domain}, got {quote(value)}")
    refuse_credential(value)
    return value


_PARSERS: dict[str, Callable[[Param, object], Value]] = {
    "int": _parse_integer,
    "float": _parse_number,
    "bool": _parse_boolean,
    "choice": _parse_choice,
    "size": _parse_size,
    "numbers": _parse_numbers,
    "text": _parse_text,
}
