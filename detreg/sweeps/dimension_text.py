"""A dimension as text: `1e-5:1e-3:log`, `320:640:32` or `yolox_nano|yolox_tiny`."""

from detreg.errors import quote, shorten
from detreg.params import Param, Value
from detreg.sweeps.dimension import Dimension

_NUMERIC_TYPES = ("int", "float", "size")


def parse_dimension(param: Param, text: str | None = None) -> Dimension:
    """Return what a text searches of a hyperparameter.

    Args:
        param: The hyperparameter.
        text: `minimum:maximum`, with `:step` or `:log` behind it, or `value|value`. None stands
            for what the declaration searches by default, or else for the whole domain.

    Raises:
        ValueError: If the text is not such a range, or leaves the domain or its grid. The message
            begins with the hyperparameter's name.
    """
    if text is None:
        text = param.search or _format_whole_domain(param)
    if "|" in text:
        return _parse_choices(param, text)

    parts = text.split(":")
    if param.type not in _NUMERIC_TYPES or len(parts) == 1:
        raise ValueError(
            f"{param.name}={text} is not a range: write {_format_advice(param)}; "
            f"a single value is fixed by --{param.name}"
        )
    if len(parts) > 3:
        raise ValueError(
            f"{param.name}={text} has too many parts: "
            "write minimum:maximum, minimum:maximum:step or minimum:maximum:log"
        )
    return _parse_range(param, text, parts)


def _format_whole_domain(param: Param) -> str:
    """Return the text of a dimension that has all values of a hyperparameter."""
    if param.choices and len(param.choices) == 1:
        raise ValueError(
            f"{param.name} has one value only, {param.choices[0]}: leave it out of the space"
        )
    if param.type in ("choice", "bool"):
        return "|".join(param.choices or ("true", "false"))
    if param.type in ("int", "size") or (param.type == "float" and param.step):
        return f"{param.minimum:g}:{param.maximum:g}:{param.step:g}"
    raise ValueError(
        f"{param.name} has no range that could be searched by default: "
        "give one, as minimum:maximum:step or value|value"
    )


def _format_advice(param: Param) -> str:
    """Return how the hyperparameter may be searched."""
    if param.type in ("choice", "bool"):
        choices = "|".join(param.choices or ("true", "false"))
        return f"{param.name}={choices}"
    if param.type in _NUMERIC_TYPES:
        return f"{param.name}=VALUE|VALUE, or minimum:maximum:step"
    return f"{param.name}=VALUE|VALUE"


def _parse_choices(param: Param, text: str) -> Dimension:
    choices = []
    for word in text.split("|"):
        # `640` and `640.0` are one choice.
        choice = param.format(_parse_value(param, word))
        if choice not in choices:
            choices.append(choice)
    if len(choices) < 2:
        raise ValueError(
            f"{param.name}={text} has one value only: fix it instead, --{param.name} {choices[0]}"
        )
    return Dimension(param, choices=tuple(choices))


def _parse_range(param: Param, text: str, parts: list[str]) -> Dimension:
    low = _parse_end(param, parts[0])
    high = _parse_end(param, parts[1])

    # Without a third part, the scale or the step is that of the declaration.
    is_log = param.search is not None and param.search.endswith(":log")
    step = param.step
    try:
        if len(parts) == 3:
            is_log = parts[2] == "log"
            step = None if is_log else _parse_step(parts[2])
        if is_log:
            return Dimension(param, low, high, log=True)
        return Dimension(param, low, high, step)
    except ValueError as error:
        raise ValueError(f"{param.name}={text}: {error}") from error


def _parse_end(param: Param, text: str) -> float:
    """Return the number at an end of a range; of a size, its one side."""
    value = _parse_value(param, text)
    if isinstance(value, tuple):
        if len(value) != 1:
            raise ValueError(
                f"{param.name}={text}: width,height cannot be the end of a range; "
                f"write choices, such as {param.name}=800,512|640,512"
            )
        value = value[0]
    if not isinstance(value, int | float):
        # `auto` or `none`
        raise ValueError(
            f"{param.name} must have numbers at both ends of a range, got {shorten(text)}"
        )
    if value in param.also:
        # A published size off the grid: no step from there leads to another valid value.
        raise ValueError(
            f"{param.name} must have multiples of {param.step:g} at both ends of a range, "
            f"got {text}: write it as one of several choices, {text}|VALUE"
        )
    return float(value)


def _parse_step(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the step must be a number or log, got {quote(text)}") from None


def _parse_value(param: Param, text: str) -> Value:
    try:
        return param.parse(text)
    except ValueError as error:
        raise ValueError(f"{param.name} must be {error}") from error
