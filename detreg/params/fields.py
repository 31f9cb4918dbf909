"""Fields of a dataclass that declare hyperparameters.

These functions are named by the field they declare, like `dataclasses.field`, and return the type
of the field's value, so that mypy checks `batch_size: int = integer(...)`.
"""

import dataclasses
from typing import Any, overload

from detreg.defaults import MAX_IMAGE_SIZE
from detreg.params.param import AUTO, ImageSize, Param


def _declare(param: Param) -> Any:
    # A dataclass field that the type checker takes for the field's default value.
    return dataclasses.field(default=param.default, metadata={"param": param})


def integer(
    default: int, minimum: int, maximum: int, step: int = 1, *, search: str | None = None, help: str
) -> int:
    """Declare an integer field."""
    return _declare(Param("int", default, help, minimum, maximum, step, search=search))


def integer_or_auto(
    default: int | None,
    minimum: int,
    maximum: int,
    step: int = 1,
    *,
    search: str | None = None,
    help: str,
) -> int | None:
    """Declare an integer field that may be `auto`, which is None in Python until it is chosen.

    The default None is `auto`.
    """
    param = Param(
        "int", default, help, minimum, maximum, step, optional=True, empty=AUTO, search=search
    )
    return _declare(param)


def number(
    default: float,
    minimum: float,
    maximum: float,
    step: float | None = None,
    *,
    search: str | None = None,
    help: str,
) -> float:
    """Declare a float field."""
    return _declare(Param("float", default, help, minimum, maximum, step, search=search))


def number_or_auto(
    minimum: float, maximum: float, *, search: str | None = None, help: str
) -> float | None:
    """Declare a float field whose default, `auto`, is found by the template.

    It is None in Python until then.
    """
    param = Param("float", None, help, minimum, maximum, optional=True, empty=AUTO, search=search)
    return _declare(param)


def boolean(default: bool, *, search: str | None = None, help: str) -> bool:
    """Declare a bool field."""
    return _declare(Param("bool", default, help, search=search))


def choice(default: str, *choices: str, help: str) -> str:
    """Declare a field that takes one of a few words; the default may be left out of `choices`."""
    if default not in choices:
        choices = (default, *choices)
    return _declare(Param("choice", default, help, choices=choices))


@overload
def size(default: int, *, also: tuple[int, ...] = (), help: str) -> ImageSize: ...
@overload
def size(default: None, *, also: tuple[int, ...] = (), help: str) -> ImageSize | None: ...
def size(default: int | None, *, also: tuple[int, ...] = (), help: str) -> ImageSize | None:
    """Declare an image size, one integer or two; None makes it optional.

    `also` names sizes off the grid of 32 pixels.
    """
    is_optional = default is None
    value = None if default is None else (default,)
    return _declare(
        Param("size", value, help, 64, MAX_IMAGE_SIZE, 32, optional=is_optional, also=also)
    )


def numbers(
    default: tuple[float, ...], minimum: float, maximum: float, *, help: str
) -> tuple[float, ...]:
    """Declare a list of one to eight numbers."""
    return _declare(Param("numbers", default, help, minimum, maximum))


@overload
def text(default: str, *, help: str) -> str: ...
@overload
def text(default: None, *, help: str) -> str | None: ...
def text(default: str | None, *, help: str) -> str | None:
    """Declare a free text; None makes it optional."""
    return _declare(Param("text", default, help, optional=default is None))
