"""A space as text or as a YAML file, with fixed values beside it.

    per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2 ssd.batch_size=8:24:8

An item is `name=minimum:maximum`, with `:step` or `:log` behind it, `name=value|value|...`, or a
name alone, which takes what its declaration searches by default. Only what is named is searched.
`TEMPLATE.name` is for one of several templates, and overrides the name alone. A YAML file has one
key for each name, with the same text or a list of choices as its value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from detreg.defaults import FEW_IMAGES
from detreg.documents import DocumentError
from detreg.errors import NotFoundError, UsageError, quote, shorten
from detreg.files import exists, read_regular
from detreg.params import Value, get_params, suggest_spelling
from detreg.sweeps.combinations import drop_broken_dimensions, find_combination_problems
from detreg.sweeps.dimension import Dimension
from detreg.sweeps.dimension_text import parse_dimension
from detreg.sweeps.space import Space, TemplateSpace
from detreg.templates.template import Template
from detreg.yaml_documents import MAX_YAML_BYTES, parse_yaml

Items = Mapping[str, str | None]
"""The text of each dimension by the name of its hyperparameter; None for a name alone."""

V = TypeVar("V")


def parse_space(
    templates: Sequence[Template],
    text: str | None,
    fixed: Mapping[str, object],
    recipe: str = FEW_IMAGES,
) -> Space:
    """Return the space that a text names, beside fixed values.

    Args:
        templates: The templates that the sweep searches.
        text: Items with spaces between, or the name of a YAML file. None stands for the default
            space: what each template's declarations search, less what is fixed.
        fixed: Texts or Python values by name or `TEMPLATE.name`.
        recipe: The run option, which says what `auto` stands for in the first trials.

    Raises:
        UsageError: With every problem at once: a name that is unknown, given twice or both
            searched and fixed; a value outside a template's domain or off its grid; values that
            cannot go together.
        NotFoundError: If the YAML file does not exist.
    """
    items = None if text is None else _read_items(text)
    problems = _find_unknown_names(templates, [*(items or {}), *fixed])

    parts: dict[str, TemplateSpace] = {}
    for template in templates:
        try:
            parts[template.name] = _parse_template_space(template, items, fixed, recipe)
        except UsageError as error:
            problems += error.problems

    if problems:
        # The same problem may have been found for several templates.
        raise UsageError(list(dict.fromkeys(problems)))
    return Space(parts)


def _parse_template_space(
    template: Template, items: Items | None, fixed: Mapping[str, object], recipe: str
) -> TemplateSpace:
    """Return what is searched and fixed of one template; without items, the default space."""
    own_fixed = _select_own(template, fixed)
    if items is None:
        own_items = _list_default_items(template, own_fixed)
    else:
        own_items = _select_own(template, items)

    problems = []
    for name in own_items:
        if name in own_fixed:
            problems.append(f"{name} is both fixed and in the space: leave one out")
    dimensions = _parse_dimensions(template, own_items, problems)
    typed = _parse_fixed(template, own_fixed, problems)
    if problems:
        raise UsageError(problems)

    # Only now, since values that are not valid by themselves cannot be combined.
    space = TemplateSpace(template.name, dimensions, typed, recipe)
    if items is None:
        space = drop_broken_dimensions(space)
    problems = find_combination_problems(space)
    if problems:
        raise UsageError(problems)
    if not space.dimensions:
        raise UsageError(
            f"nothing of {template.name} is searched: name something in space, or leave space out"
        )
    return space


def _read_items(text: str) -> Items:
    """Return the items of the text, or of the YAML file that it names."""
    if text.endswith((".yaml", ".yml")):
        return _read_yaml(Path(text).expanduser())

    items: dict[str, str | None] = {}
    repeated = set()
    for word in text.split():
        name, equals, value = word.partition("=")
        if name in items:
            repeated.add(name)
        items[name] = value if equals else None
    if repeated:
        raise UsageError(f"the space names {', '.join(sorted(repeated))} more than once")
    return items


def _read_yaml(path: Path) -> Items:
    if not exists(path):
        raise NotFoundError(f"space={path} does not exist")
    try:
        # All values stay text: YAML would read 8:24:8 as a number in base 60, which is 30248.
        content = parse_yaml(read_regular(path, MAX_YAML_BYTES), only_text=True)
    except DocumentError as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} must have a line `name: minimum:maximum:step` for each hyperparameter"
        )

    items: dict[str, str | None] = {}
    for name, value in content.items():
        if isinstance(value, list):
            items[_format(name)] = "|".join(map(_format, value))
        else:
            # A name alone has an empty text.
            items[_format(name)] = _format(value) or None
    return items


def _format(value: object) -> str:
    """Return a scalar of the file; what is not one cannot be meant, and is cut for a message."""
    return value if isinstance(value, str) else quote(value)


def _find_unknown_names(templates: Sequence[Template], names: Sequence[str]) -> list[str]:
    known: list[str] = []
    for template in templates:
        for name in get_params(template.params):
            known += [name, f"{template.name}.{name}"]

    problems = []
    for name in names:
        if name not in known:
            problems.append(f"unknown parameter {shorten(name)}{suggest_spelling(name, known)}")
    return problems


def _select_own(template: Template, values: Mapping[str, V]) -> dict[str, V]:
    """Return the values of one template's hyperparameters, by plain name."""
    params = get_params(template.params)
    own = {name: value for name, value in values.items() if name in params}

    # After the plain names, because `TEMPLATE.name` overrides `name`.
    prefix = f"{template.name}."
    for name, value in values.items():
        if not name.startswith(prefix):
            continue
        plain_name = name.removeprefix(prefix)
        if plain_name in params:
            own[plain_name] = value
    return own


def _list_default_items(template: Template, fixed: Mapping[str, object]) -> Items:
    """Return what a template's declarations search by default, less what is fixed."""
    items: dict[str, str | None] = {}
    for name, param in get_params(template.params).items():
        if param.search and name not in fixed:
            items[name] = None
    return items


def _parse_dimensions(
    template: Template, items: Items, problems: list[str]
) -> dict[str, Dimension]:
    """Return the dimensions of a template; append what is wrong to `problems`."""
    params = get_params(template.params)
    dimensions = {}
    for name, text in items.items():
        try:
            dimensions[name] = parse_dimension(params[name], text)
        except ValueError as error:
            problems.append(f"space: {template.name}'s {error}")
    return dimensions


def _parse_fixed(
    template: Template, values: Mapping[str, object], problems: list[str]
) -> dict[str, Value]:
    """Return the typed fixed values of a template; append what is wrong to `problems`.

    Each value is parsed by itself; whether they go together depends on the space.
    """
    params = get_params(template.params)
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = params[name].parse(value)
        except ValueError as error:
            problems.append(f"{template.name}: {name} must be {error}")
    return typed
