"""From texts to an instance of a dataclass with declared params, and back to texts and JSON."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TypeVar

from detreg.errors import UsageError, shorten
from detreg.params.param import Param, Value
from detreg.params.spelling import suggest_spelling

P = TypeVar("P")

JsonValue = bool | int | float | str | list[float] | None


def get_params(cls: type) -> dict[str, Param]:
    """Return the declared params of a dataclass, by name, in the order of declaration."""
    return dict(_collect_params(cls))


@functools.cache  # a sweep builds many instances of the same class
def _collect_params(cls: type) -> Mapping[str, Param]:
    params: dict[str, Param] = {}
    for field in dataclasses.fields(cls):
        if "param" in field.metadata:
            params[field.name] = dataclasses.replace(field.metadata["param"], name=field.name)
    return params


def build(cls: type[P], values: Mapping[str, object]) -> P:
    """Return an instance of the dataclass `cls` from texts or Python values by name.

    What is absent takes its default.

    Raises:
        UsageError: every problem at once: unknown names (with the nearest one), wrong types, values
            outside their domain, and what the class's `find_problems` finds in the combination.
    """
    params = get_params(cls)
    problems: list[str] = []
    typed: dict[str, Value] = {}

    for name in values:
        if name not in params:
            problems.append(
                f"unknown parameter {shorten(name)}{suggest_spelling(name, tuple(params))}"
            )
    for name, value in values.items():
        if name not in params:
            continue
        try:
            typed[name] = params[name].parse(value)
        except ValueError as error:
            problems.append(f"{name} must be {error}")
    if problems:
        raise UsageError(problems)

    instance = cls(**typed)
    find_problems = getattr(instance, "find_problems", None)
    if find_problems is not None:
        problems = find_problems()
    if problems:
        raise UsageError(problems)
    return instance


def to_texts(instance: object) -> dict[str, str]:
    """Return the text form of every declared value, as MLflow logs it."""
    texts: dict[str, str] = {}
    for name, param in get_params(type(instance)).items():
        texts[name] = param.format(getattr(instance, name))
    return texts


def to_changed_texts(instance: object) -> dict[str, str]:
    """Return the text form of the values that are not the default."""
    params = get_params(type(instance))
    changed: dict[str, str] = {}
    for name, text in to_texts(instance).items():
        default = params[name].format(params[name].default)
        if text != default:
            changed[name] = text
    return changed


def to_plain(instance: object) -> dict[str, JsonValue]:
    """Return the typed values by name, in JSON's types."""
    plain: dict[str, JsonValue] = {}
    for name in get_params(type(instance)):
        value = getattr(instance, name)
        plain[name] = list(value) if isinstance(value, tuple) else value
    return plain
