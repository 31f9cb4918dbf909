"""What a sweep searches: ranges within the templates' own, read from text or from a YAML file.

    per_item_lrate=1e-5:1e-3:log image_size=320:640:32 frozen_stages=0:2 base_model=yolox_nano|yolox_tiny ssd.batch_size=8:24:8

An item is `name=minimum:maximum`, with `:step` or `:log` behind it, or `name=value|value|...`, or a name alone, which takes what its
declaration searches by default. Only what is named is searched. `TEMPLATE.name` is for one of several templates. A YAML file has one
key for each name, with the same text as its value. Standard library only.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from detreg import templates
from detreg.errors import NotFoundError, UsageError
from detreg.params import Param, get_params, suggest_spelling
from detreg.templates.template import Template

_TOLERANCE = 1e-8
_MOST_STEPS = 1e9
_SHOWN = 5
"""Problems of combinations that are told of one template."""


class Suggests(Protocol):
    """The part of an Optuna trial that a space asks."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """An integer."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float:
        """A number."""

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        """One of a few texts."""


@dataclass(frozen=True)
class Dimension:
    """What is searched of one hyperparameter: `choices`, as texts, or numbers from `low` to `high`."""

    param: Param
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[str, ...] = ()

    def suggest(self, trial: Suggests, key: str) -> Any:
        """A value for a trial, under the name `key`."""
        if self.choices:
            return self.param.parse(trial.suggest_categorical(key, list(self.choices)))
        if self.param.type == "float":
            return self.param.parse(
                trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)
            )
        return self.param.parse(
            trial.suggest_int(
                key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log
            )
        )

    def nearest(self, value: Any) -> Any:
        """Find the value of this dimension, as Optuna stores it, nearest to a typed value.

        The value of a range must be a number: `find_defaults` has it where a default is empty.
        """
        if self.choices:
            text = self.param.format(value)
            return text if text in self.choices else self.choices[0]
        number = min(max(value[0] if isinstance(value, tuple) else value, self.low), self.high)
        if self.step:
            number = self.low + round((number - self.low) / self.step) * self.step
        return float(number) if self.param.type == "float" else int(number)

    def nearest_typed(self, value: Any) -> Any:
        """Find the same value in the type of the hyperparameter."""
        return self.param.parse(self.nearest(value))

    @property
    def ends(self) -> tuple[Any, ...]:
        """Typed values at the ends of the range, or all choices."""
        return tuple(self.param.parse(value) for value in self.choices or (self.low, self.high))

    @property
    def corners(self) -> list[Any]:
        """Those of `ends` that are enough to find every broken rule of `CommonParams.problems`.

        The rules are monotone in numbers: they compare the sides of sizes, one by one, and ask
        whether frozen_stages is above 0. So where a value breaks a rule, the smallest or the
        largest does too, and what lies between need not be tried. Of a text, the rules only ask
        whether it is there. Long lists of choices are thus as quick to check as ranges.
        """
        if self.param.type == "size":
            return _find_outermost_sizes(self.param, self.ends)
        empty = [value for value in self.ends if value is None]
        given = [value for value in self.ends if value is not None]
        if self.param.type == "text":
            return [*given[:1], *empty]
        if self.param.type in ("int", "float"):
            return [min(given), max(given), *empty]
        return list(self.ends)

    def __str__(self) -> str:
        if self.choices:
            return "|".join(self.choices)
        return f"{self.low:g}:{self.high:g}" + (
            ":log" if self.log else f":{self.step:g}" if self.step else ""
        )


@dataclass(frozen=True)
class Space:
    """What is searched and what is fixed, for each template by name."""

    dimensions: Mapping[str, Mapping[str, Dimension]]
    fixed: Mapping[str, Mapping[str, Any]]
    """Typed values."""

    def suggest(self, trial: Suggests) -> tuple[Template, dict[str, Any]]:
        """Return the template of a trial, and its hyperparameters that are not left at default."""
        names = list(self.dimensions)
        name = trial.suggest_categorical("template", names) if len(names) > 1 else names[0]
        searched = self.dimensions[name].items()
        return templates.TEMPLATES[name], {
            **self.fixed[name],
            **{key: dim.suggest(trial, self._key(name, key)) for key, dim in searched},
        }

    def make_first_trial(self, template: str) -> dict[str, Any]:
        """The template's defaults as the parameters of an Optuna trial; what lies outside the space is moved to its edge."""
        defaults = self._find_defaults(template)
        values = {}
        for name, dim in self.dimensions[template].items():
            values[self._key(template, name)] = dim.nearest(defaults[name])
        return values | ({"template": template} if len(self.dimensions) > 1 else {})

    def find_first_values(self, template: str) -> dict[str, Any]:
        """Find the typed values of the template's first trial, the fixed ones among them."""
        defaults = self._find_defaults(template)
        values = dict(self.fixed[template])
        for name, dim in self.dimensions[template].items():
            values[name] = dim.nearest_typed(defaults[name])
        return values

    def describe_moved_defaults(self) -> Iterator[str]:
        """A sentence for each default that lies outside the space."""
        for template, dimensions in self.dimensions.items():
            defaults = self._find_defaults(template)
            for name, dim in dimensions.items():
                first = dim.param.format(dim.nearest_typed(defaults[name]))
                meant = dim.param.format(defaults[name])
                if first == meant:
                    continue
                default = dim.param.format(dim.param.default)
                if default != meant:
                    default += f" ({meant})"
                outside = f"{template}'s default {name}={default} lies outside {dim}"
                yield f"{outside}: its first trial has {first}"

    @property
    def digest(self) -> str:
        """Changes with anything that changes what a trial of this space can be."""
        searched = {
            template: {name: str(dim) for name, dim in dims.items()}
            for template, dims in self.dimensions.items()
        }
        fixed = {
            template: {name: repr(value) for name, value in values.items()}
            for template, values in self.fixed.items()
        }
        return hashlib.sha256(json.dumps([searched, fixed], sort_keys=True).encode()).hexdigest()[
            :12
        ]

    def __str__(self) -> str:
        lines = {
            template: " ".join(f"{name}={dim}" for name, dim in dims.items())
            for template, dims in self.dimensions.items()
        }
        return "; ".join(f"{template}: {line}" for template, line in lines.items())

    def _key(self, template: str, name: str) -> str:
        return f"{template}.{name}" if len(self.dimensions) > 1 else name

    def _find_defaults(self, template: str) -> dict[str, Any]:
        dimensions, fixed = self.dimensions[template], self.fixed[template]
        return find_defaults(templates.TEMPLATES[template], dimensions, fixed)


def find_defaults(
    template: Template,
    dimensions: Mapping[str, Dimension],
    fixed: Mapping[str, Any],
) -> dict[str, Any]:
    """Find the typed default of each dimension, with a value in place of an empty one.

    What is behind an empty default depends on the other values of the first trial: its base
    model has the rate of `auto`, and its image_size is the random size of `none`.
    """
    given = dict(fixed)
    for name, dim in dimensions.items():
        if dim.param.default is not None:
            given[name] = dim.nearest_typed(dim.param.default)

    # Not by `build`: whether the values go together is asked later, of all combinations.
    params = template.resolve(template.params(**given))
    lower, upper = params.random_sizes
    filled = replace(params, random_resize_lower=lower, random_resize_upper=upper)

    defaults = {}
    for name, dim in dimensions.items():
        defaults[name] = dim.param.default
        is_a_choice = dim.param.format(dim.param.default) in dim.choices
        if dim.param.default is None and not is_a_choice:
            defaults[name] = getattr(filled, name)
    return defaults


def space(chosen: tuple[Template, ...], text: str | None, fixed: Mapping[str, Any]) -> Space:
    """The space that `text` names, or the default one, with the values in `fixed` held still.

    Raises UsageError with every problem at once: what is unknown, out of a template's range or off its step, named twice, or cannot
    go together with the other values; NotFoundError for a YAML file that is not there.
    """
    items = _items(text)
    problems = _unknown(chosen, [*items, *fixed])
    dimensions: dict[str, dict[str, Dimension]] = {}
    held: dict[str, dict[str, Any]] = {}
    for template in chosen:
        params = get_params(template.params)
        held[template.name] = _for(template, fixed)
        wanted = _for(template, items)
        both = [name for name in wanted if name in held[template.name]]
        problems += [f"{name} is both fixed and in the space: leave one out" for name in both]
        if text is None:
            wanted = {
                name: None
                for name, param in params.items()
                if param.search and name not in held[template.name]
            }
        dims, found = _dimensions(template, wanted)
        held[template.name], wrong = _typed(template, held[template.name])
        found += wrong
        if not found and not both:
            if text is None:
                dims = _drop_broken(template, dims, held[template.name])
            found = _check_combinations(template, dims, held[template.name])
        problems += found
        if not found and not dims:
            problems.append(
                f"nothing of {template.name} is searched: name something in space, or leave space out"
            )
        dimensions[template.name] = dims
    if problems:
        raise UsageError(list(dict.fromkeys(problems)))
    return Space(dimensions, held)


def _items(text: str | None) -> dict[str, str | None]:
    """The items of the text or of the file that it names; None for a name alone."""
    if text is None:
        return {}
    if text.endswith((".yaml", ".yml")):
        return _from_yaml(Path(text).expanduser())
    pairs = [word.partition("=") for word in text.split()]
    names = [name for name, _, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"the space names {', '.join(twice)} more than once")
    return {name: value if equals else None for name, equals, value in pairs}


def _from_yaml(path: Path) -> dict[str, str | None]:
    import yaml

    if not path.is_file():
        raise NotFoundError(f"space={path} is not there")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{path} must have a line `name: minimum:maximum:step` for each hyperparameter"
        )
    listed = {
        name: "|".join(map(str, value)) if isinstance(value, list) else value
        for name, value in content.items()
    }
    return {str(name): None if value is None else str(value) for name, value in listed.items()}


def _unknown(chosen: tuple[Template, ...], names: list[str]) -> list[str]:
    known = {name for template in chosen for name in get_params(template.params)}
    known |= {
        f"{template.name}.{name}" for template in chosen for name in get_params(template.params)
    }
    return [
        f"unknown parameter {name}{suggest_spelling(name, tuple(known))}"
        for name in names
        if name not in known
    ]


def _for(template: Template, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are the template's, by plain name; `TEMPLATE.name` is stronger than the name alone."""
    params = get_params(template.params)
    own = {
        name.removeprefix(f"{template.name}."): value
        for name, value in values.items()
        if name.startswith(f"{template.name}.")
    }
    return {name: value for name, value in values.items() if name in params} | {
        k: v for k, v in own.items() if k in params
    }


def _dimensions(
    template: Template, wanted: Mapping[str, str | None]
) -> tuple[dict[str, Dimension], list[str]]:
    dimensions, problems = {}, []
    for name, text in wanted.items():
        try:
            dimensions[name] = dimension(get_params(template.params)[name], text)
        except ValueError as error:
            problems.append(f"space: {template.name}'s {name}{error}")
    return dimensions, problems


def dimension(param: Param, text: str | None = None) -> Dimension:
    """What `text` (None: the declaration) searches of a hyperparameter.

    Raises ValueError with the rest of a sentence that begins with the hyperparameter's name.
    """
    if text is None:
        text = param.search or _whole(param)
    if "|" in text:
        values = [_parsed(param, choice) for choice in text.split("|")]
        choices = tuple(dict.fromkeys(param.format(value) for value in values))
        if len(choices) < 2:
            raise ValueError(
                f"={text} has one value only: fix it instead, --{param.name} {choices[0]}"
            )
        return Dimension(param, choices=choices)
    parts = text.split(":")
    if param.type not in ("int", "float", "size") or len(parts) == 1:
        values_text = (
            "|".join(param.choices or ("true", "false"))
            if param.type in ("choice", "bool")
            else "VALUE|VALUE"
        )
        numeric = ", or minimum:maximum:step" if param.type in ("int", "float", "size") else ""
        raise ValueError(
            f"={text} is no range: write {param.name}={values_text}{numeric}; a single value is fixed by --{param.name}"
        )
    if len(parts) > 3:
        raise ValueError(
            f"={text} has too many parts: write minimum:maximum, minimum:maximum:step or minimum:maximum:log"
        )
    return _range(param, text, *parts)


def _whole(param: Param) -> str:
    if param.choices and len(param.choices) == 1:
        raise ValueError(f" has one value only, {param.choices[0]}: leave it out of the space")
    if param.type in ("choice", "bool"):
        return "|".join(param.choices or ("true", "false"))
    if param.type in ("int", "size") or (param.type == "float" and param.step):
        return f"{param.minimum:g}:{param.maximum:g}:{param.step:g}"
    raise ValueError(
        " has no range of its own that could be searched: give one, as minimum:maximum:step or value|value"
    )


def _range(
    param: Param, text: str, low_text: str, high_text: str, third: str | None = None
) -> Dimension:
    low, high = (_single(param, end) for end in (low_text, high_text))
    if low >= high:
        raise ValueError(f"={text}: the minimum {low_text} must be below the maximum {high_text}")
    log = third == "log" or (third is None and bool(param.search and param.search.endswith(":log")))
    if log:
        # On a log scale Optuna takes no step but that of whole numbers.
        is_stepped = bool(param.step) and (param.type, param.step) != ("int", 1)
        if low <= 0 or is_stepped:
            raise ValueError(
                f"={text}: a log scale wants a minimum above 0 and a hyperparameter without steps"
            )
        return Dimension(param, low, high, log=True)
    try:
        step = float(third) if third is not None else param.step
    except ValueError:
        raise ValueError(f"={text}: the step must be a number or log, not {third!r}") from None
    if step is not None:
        _check_step(param, text, low, high, step)
    return Dimension(param, low, high, step)


def _check_step(param: Param, text: str, low: float, high: float, step: float) -> None:
    if not 0 < step < math.inf:
        raise ValueError(f"={text}: the step must be above 0 and finite, got {step:g}")
    if (high - low) / step > _MOST_STEPS:
        # Optuna's decimals have 28 digits, which must hold the number of steps.
        smallest = (high - low) / _MOST_STEPS
        raise ValueError(f"={text}: the step must be at least {smallest:g}, got {step:g}")
    if param.step and not _divides(param.step, step):
        raise ValueError(f"={text}: the step must be a multiple of {param.step:g}")
    if not _divides(step, high - low):
        below = low + int((high - low) / step + _TOLERANCE) * step
        raise ValueError(
            f"={text}: the step {step:g} does not divide the range; the maximum would be {below:g} or {below + step:g}"
        )


def _divides(step: float, span: float) -> bool:
    return abs(span / step - round(span / step)) < _TOLERANCE


def _single(param: Param, text: str) -> float:
    value = _parsed(param, text)
    if value is None:
        raise ValueError(f" must have numbers at both ends of a range, got {text}")
    if isinstance(value, tuple):
        if len(value) != 1:
            raise ValueError(f": width,height has no range; write {param.name}=800,512|640,512")
        value = value[0]
    if value in param.also:
        # From there, no step of the grid leads to another valid value.
        rule = f" must have multiples of {param.step:g} at both ends of a range, got {text}"
        raise ValueError(f"{rule}: write it as one of several, {text}|VALUE")
    return value


def _parsed(param: Param, text: str) -> Any:
    try:
        return param.parse(text)
    except ValueError as error:
        raise ValueError(f" must be {error}") from error


def _typed(template: Template, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Parse the fixed values, each by itself; whether they go together depends on the space."""
    params = get_params(template.params)
    typed, problems = {}, []
    for name, value in values.items():
        try:
            typed[name] = params[name].parse(value)
        except ValueError as error:
            problems.append(f"{template.name}: {name} must be {error}")
    return typed, problems


def _drop_broken(
    template: Template,
    dimensions: Mapping[str, Dimension],
    fixed: Mapping[str, Any],
) -> dict[str, Dimension]:
    """Leave out each dimension with which the fixed values do not go together."""
    kept = dict(dimensions)
    for name in dimensions:
        if _find_broken_rules(template, kept, fixed, [name]):
            del kept[name]
    return kept


def _check_combinations(
    template: Template,
    dimensions: Mapping[str, Dimension],
    fixed: Mapping[str, Any],
) -> list[str]:
    """Say which combinations of values no training would take: for each problem, the first one."""
    examples: dict[str, str] = {}
    for group in template.params.RULE_GROUPS:
        searched = [name for name in group if name in dimensions]
        for problem, example in _find_broken_rules(template, dimensions, fixed, searched).items():
            # Where the example is empty, no value of this group is to blame: another's may be.
            examples[problem] = examples.get(problem) or example

    told = []
    for problem, example in examples.items():
        combination = f"space: {template.name} with {example} cannot be trained"
        told.append(f"{combination if example else template.name}: {problem}")
    more = len(told) - _SHOWN
    if more > 0:
        told[_SHOWN:] = [f"space: {template.name} has {more} more such problems with other values"]
    return told


def _find_broken_rules(
    template: Template,
    dimensions: Mapping[str, Dimension],
    fixed: Mapping[str, Any],
    names: Sequence[str],
) -> dict[str, str]:
    """Find the problems of all combinations of the dimensions `names`, each with an example.

    Other dimensions have the values of the first trial.
    """
    defaults = find_defaults(template, dimensions, fixed)
    first = {name: dim.nearest_typed(defaults[name]) for name, dim in dimensions.items()}
    base = template.params(**{**fixed, **first})

    found: dict[tuple[Any, ...], list[str]] = {}
    for values in product(*(dimensions[name].corners for name in names)):
        params = replace(base, **dict(zip(names, values, strict=True)))
        found[values] = params.find_problems()

    examples: dict[str, str] = {}
    for values, problems in found.items():
        for problem in problems:
            if problem in examples:
                continue
            words = []
            for place in _find_blame(found, values, problem):
                param = dimensions[names[place]].param
                words.append(f"{param.name}={param.format(values[place])}")
            examples[problem] = " ".join(words)
    return examples


def _find_blame(
    found: Mapping[tuple[Any, ...], list[str]],
    example: tuple[Any, ...],
    problem: str,
) -> list[int]:
    """Find the places of those values of an example that bring the problem, whatever the others."""
    places = list(range(len(example)))
    for place in range(len(example)):
        others = [other for other in places if other != place]
        alike = [values for values in found if all(values[i] == example[i] for i in others)]
        if all(problem in found[values] for values in alike):
            places = others
    return places


def _find_outermost_sizes(param: Param, sizes: Sequence[Any]) -> list[Any]:
    """Find the smallest and the largest sizes by each side, what is off the grid, and None."""
    kept = [size for size in sizes if size is None]
    for length, axis in ((1, 0), (2, 0), (2, 1)):
        alike = [size for size in sizes if size is not None and len(size) == length]
        alike.sort(key=itemgetter(axis))
        off_grid = {size[axis]: size for size in alike if size[axis] in param.also}
        kept += [*alike[:1], *off_grid.values(), *alike[-1:]]
    return list(dict.fromkeys(kept))
