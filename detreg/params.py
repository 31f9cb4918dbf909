"""Hyperparameters: declared once as fields of a frozen dataclass, from which everything else is derived.

    @dataclass(frozen=True, kw_only=True)
    class Params:
        batch_size: int = integer(8, 1, 32, 1, help="Images per optimiser step, over all GPUs")

The declaration gives the command-line flag, the MLproject parameter, the table in the docs, the check of a value, its text form and,
for a sweep, its range. The text form is what `mlflow run` passes and logs; `none` stands for an empty value.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

from detreg.errors import UsageError

ImageSize = tuple[int, ...]
"""One integer (the smaller side) or two (width, height), in pixels."""

NONE = "none"
AUTO = "auto"
"""The text of a value that is left to the template: None in Python until `Template.resolve` has found the number."""
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "size": "one integer or two (width,height), each",
    "numbers": "1 to 8 numbers, each",
}
_TOLERANCE = 1e-8  # optuna suggests 0.6000000000000001, and people type 0.7 for seven steps of 0.1


@dataclass(frozen=True)
class Param:
    """One declared value: its type, default, domain and help. `name` is filled in from the dataclass field."""

    type: str
    """`int`, `float`, `bool`, `choice`, `size`, `numbers` or `text`; see `_READERS`."""
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    optional: bool = False
    empty: str = NONE
    """The word for None where the value is optional: `none`, or `auto` where the template finds a value."""
    also: tuple[int, ...] = ()
    """Numbers off the grid of `step` that are taken too, such as a published size."""
    search: str | None = None
    """What a sweep searches of it unless told otherwise, written as in `space` (detreg/sweeps/dimension_text.py); None leaves it at its value."""
    name: str = ""

    def parse(self, value: Any) -> Any:
        """The typed value of a text or of a Python value.

        Raises ValueError with a phrase that completes "NAME must be ..." when the value is not of the type or out of the domain.
        """
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            value = value.strip()
        word = NONE if value is None else str(value).lower()
        if self.optional and (value is None or word == self.empty):
            return None
        if word == NONE:
            # In Python, None stands for the choice `none`; in text, None and NONE do.
            if not (self.choices and NONE in self.choices):
                raise ValueError(f"{self.domain}, not empty")
            value = NONE
        return _READERS[self.type](self, value)

    def format(self, value: Any) -> str:
        """The text form of a typed value; `parse` gives the value back."""
        if value is None:
            return self.empty
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return ",".join(_number_text(v) for v in value)
        return _number_text(value) if isinstance(value, float) else str(value)

    @property
    def domain(self) -> str:
        """The domain in words, for messages, help texts and tables."""
        if self.choices:
            words = "one of " + ", ".join(self.choices)
        elif self.type == "bool":
            words = "true or false"
        elif self.type == "text":
            words = "text"
        else:
            words = (
                _KINDS[self.type]
                + f" from {_number_text(self.minimum)} to {_number_text(self.maximum)}"
            )
            words += (
                f" in steps of {_number_text(self.step)}" if self.step and self.step != 1 else ""
            )
            words += "".join(f", or {_number_text(value)}" for value in self.also)
        return f"{self.empty}, or {words}" if self.optional else words

    def as_json(self) -> dict[str, Any]:
        """What `detreg templates --json` prints of it; null where a key does not apply."""
        keys = ("name", "type", "default", "minimum", "maximum", "step", "choices", "help")
        values = {key: getattr(self, key) for key in keys}
        if self.default is None and self.empty == AUTO:
            values["default"] = AUTO
        return values


def _number_text(value: Any) -> str:
    return (
        repr(int(value))
        if isinstance(value, int) or float(value).is_integer()
        else repr(float(value))
    )


def _number(param: Param, value: Any) -> float:
    refused = ValueError(f"{param.domain}, not {value!r}")
    # Python also reads 1_0 and the digits of other scripts as numbers.
    plain_text = isinstance(value, str) and value.isascii() and "_" not in value
    if isinstance(value, bool) or not (plain_text or isinstance(value, Real)):
        raise refused
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise refused from None
    if (
        not math.isfinite(number)
        or (param.minimum is not None and number < param.minimum)
        or (param.maximum is not None and number > param.maximum)
    ):
        raise ValueError(f"{param.domain}, not {value}")
    if number in param.also:
        return number
    if param.step and param.minimum is not None:
        steps = (number - param.minimum) / param.step
        if abs(steps - round(steps)) > _TOLERANCE:
            below = param.minimum + math.floor(steps) * param.step
            nearest = f"{_number_text(round(below, 10))} and {_number_text(round(below + param.step, 10))}"
            raise ValueError(f"{param.domain}, not {value} (the nearest are {nearest})")
        number = float(round(param.minimum + round(steps) * param.step, 10))
    return number


def _integer(param: Param, value: Any) -> int:
    number = _number(param, value)
    if not number.is_integer():
        raise ValueError(f"{param.domain}, not {value}")
    return int(number)


def _boolean(param: Param, value: Any) -> bool:
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise ValueError(f"{param.domain}, not {value!r}")
    return text in _TRUE


def _choice(param: Param, value: Any) -> str:
    if value not in (param.choices or ()):
        raise ValueError(
            f"{param.domain}, not {value!r}{suggest_spelling(str(value), param.choices or ())}"
        )
    return str(value)


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return value.split(",")
    return list(value) if isinstance(value, Sequence) else [value]


def _size(param: Param, value: Any) -> ImageSize:
    items = _items(value)
    if len(items) not in (1, 2):
        raise ValueError(f"{param.domain}, not {value!r}")
    return tuple(_integer(param, item) for item in items)


def _numbers(param: Param, value: Any) -> tuple[float, ...]:
    items = _items(value)
    if not 1 <= len(items) <= 8:
        raise ValueError(f"{param.domain}, not {value!r}")
    return tuple(_number(param, item) for item in items)


def _text(param: Param, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{param.domain}, not {value!r}")
    return value


_READERS = {
    "int": _integer,
    "float": _number,
    "bool": _boolean,
    "choice": _choice,
    "size": _size,
    "numbers": _numbers,
    "text": _text,
}


def _declare(param: Param) -> Any:
    return dataclasses.field(default=param.default, metadata={"param": param})


def integer(
    default: int, minimum: int, maximum: int, step: int = 1, *, search: str | None = None, help: str
) -> Any:
    """Declares an integer field."""
    return _declare(Param("int", default, help, minimum, maximum, step, search=search))


def number(
    default: float,
    minimum: float,
    maximum: float,
    step: float | None = None,
    *,
    search: str | None = None,
    help: str,
) -> Any:
    """Declares a float field."""
    return _declare(Param("float", default, help, minimum, maximum, step, search=search))


def number_or_auto(minimum: float, maximum: float, *, search: str | None = None, help: str) -> Any:
    """Declares a float field whose default, `auto`, is found by the template; None in Python until then."""
    return _declare(
        Param("float", None, help, minimum, maximum, optional=True, empty=AUTO, search=search)
    )


def boolean(default: bool, *, search: str | None = None, help: str) -> Any:
    """Declares a bool field."""
    return _declare(Param("bool", default, help, search=search))


def choice(default: str, *choices: str, help: str) -> Any:
    """Declares a field that takes one of a few words; the default may be left out of `choices`."""
    return _declare(
        Param(
            "choice", default, help, choices=choices if default in choices else (default, *choices)
        )
    )


def size(default: int | None, *, also: tuple[int, ...] = (), help: str) -> Any:
    """Declares an image size, one integer or two; None makes it optional. `also` names sizes off the grid of 32 pixels."""
    value = None if default is None else (default,)
    return _declare(Param("size", value, help, 64, 2048, 32, optional=default is None, also=also))


def numbers(default: tuple[float, ...], minimum: float, maximum: float, *, help: str) -> Any:
    """Declares a list of one to eight numbers."""
    return _declare(Param("numbers", default, help, minimum, maximum))


def text(default: str | None, *, help: str) -> Any:
    """Declares a free text; None makes it optional."""
    return _declare(Param("text", default, help, optional=default is None))


def suggest_spelling(word: str, words: Sequence[str]) -> str:
    """` (did you mean X?)` when one of `words` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def get_params(cls: type) -> dict[str, Param]:
    """The declared params of a dataclass, by name, in the order of declaration."""
    return {
        f.name: dataclasses.replace(f.metadata["param"], name=f.name)
        for f in dataclasses.fields(cls)
        if "param" in f.metadata
    }


P = TypeVar("P")


def build(cls: type[P], values: Mapping[str, Any]) -> P:
    """An instance of the dataclass `cls` from texts or Python values by name; what is absent takes its default.

    Raises UsageError with every problem at once: unknown names (with the near one), wrong types, values outside their domain, and
    what the method `find_problems` of the class finds in the combination.
    """
    params = get_params(cls)
    problems = [
        f"unknown parameter {name}{suggest_spelling(name, tuple(params))}"
        for name in values
        if name not in params
    ]
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name in params:
            try:
                typed[name] = params[name].parse(value)
            except ValueError as error:
                problems.append(f"{name} must be {error}")
    if not problems:
        instance = cls(**typed)
        problems = getattr(instance, "find_problems", list)()
        if not problems:
            return instance
    raise UsageError(problems)


def to_texts(instance: Any) -> dict[str, str]:
    """The text form of every declared value, as MLflow logs it."""
    return {
        name: param.format(getattr(instance, name))
        for name, param in get_params(type(instance)).items()
    }


def to_changed_texts(instance: Any) -> dict[str, str]:
    """The text form of the values that are not the default."""
    params = get_params(type(instance))
    return {
        name: text
        for name, text in to_texts(instance).items()
        if text != params[name].format(params[name].default)
    }


def to_plain(instance: Any) -> dict[str, Any]:
    """The typed values by name, in JSON's types."""
    values = {name: getattr(instance, name) for name in get_params(type(instance))}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
