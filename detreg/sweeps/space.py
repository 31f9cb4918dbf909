"""What a sweep searches, and which values it fixes, for one template or several."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from detreg.defaults import FEW_IMAGES
from detreg.params import Value, get_params
from detreg.sweeps.dimension import Dimension, Suggester
from detreg.templates import TEMPLATES
from detreg.templates.common_params import CommonParams
from detreg.templates.template import Template


@dataclass(frozen=True)
class TemplateSpace:
    """What is searched and what is fixed of one template's hyperparameters.

    Whether the values go together is checked where it is parsed (combinations.py).

    Raises:
        ValueError: If a name is not one of the template's hyperparameters, or both searched and
            fixed.
    """

    # Not the template itself: it holds lambdas, which cannot be pickled for a worker process.
    name: str
    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Value]
    """Typed values."""
    recipe: str = FEW_IMAGES
    """The run option, which says what `auto` stands for in the first trial."""

    def __post_init__(self) -> None:
        """Check the names."""
        params = get_params(self.template.params)
        for name in [*self.dimensions, *self.fixed]:
            if name not in params:
                raise ValueError(f"{name} must be a hyperparameter of {self.name}")
        for name in self.dimensions:
            if name in self.fixed:
                raise ValueError(f"{name} of {self.name} must be searched or fixed, not both")

    @property
    def template(self) -> Template:
        """The template, found by its name."""
        return TEMPLATES[self.name]

    @property
    def may_have_masks(self) -> bool:
        """Whether a trial may learn masks."""
        dimension = self.dimensions.get("masks")
        if dimension is not None:
            return dimension.contains(True)
        return self.has_masks

    @property
    def has_masks(self) -> bool:
        """Whether every trial learns masks."""
        return bool(self.fixed.get("masks", False))

    def make_params(self, values: Mapping[str, Value]) -> CommonParams:
        """Return the hyperparameters of typed values, even if these do not go together.

        `build` would refuse them then.
        """
        # The type of each value is known to its Param, but not to a type checker.
        params_class: Callable[..., CommonParams] = self.template.params
        return params_class(**values)

    def find_first_values(self) -> dict[str, Value]:
        """Return the typed values of the first trial, the fixed ones among them."""
        defaults = self.find_defaults()
        values = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            values[name] = dimension.find_nearest_typed(defaults[name])
        return values

    def find_defaults(self) -> dict[str, Value]:
        """Return the typed default of each dimension, with a value in place of an empty one.

        What an empty default stands for depends on the other values of the first trial: `auto`
        is what its recipe says, and a random size of `none` is its image_size.
        """
        filled = self._fill_empty_defaults()
        defaults: dict[str, Value] = {}
        for name, dimension in self.dimensions.items():
            param = dimension.param
            defaults[name] = param.default
            # If `auto` or `none` is one of the choices, the first trial has that very choice.
            is_empty_choice = param.empty in dimension.choices
            if param.default is None and not is_empty_choice:
                defaults[name] = getattr(filled, name)
        return defaults

    def _fill_empty_defaults(self) -> CommonParams:
        """Return the first trial's hyperparameters, with values in place of `auto` and `none`."""
        # The others come first, because they determine what the empty ones stand for.
        values = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            default = dimension.param.default
            if default is not None:
                values[name] = dimension.find_nearest_typed(default)

        params = self.template.resolve(self.make_params(values), self.recipe)
        lower, upper = params.random_sizes
        return replace(params, random_resize_lower=lower, random_resize_upper=upper)

    def describe_moved_defaults(self) -> Iterator[str]:
        """Yield a sentence for each default outside its dimension, which the first trial moves."""
        defaults = self.find_defaults()
        for name, dimension in self.dimensions.items():
            param = dimension.param
            first = param.format(dimension.find_nearest_typed(defaults[name]))
            meant = param.format(defaults[name])
            if first == meant:
                continue

            # For example `auto (0.00015625)`.
            default = param.format(param.default)
            if default != meant:
                default += f" ({meant})"
            yield (
                f"{self.name}'s default {name}={default} lies outside {dimension}: "
                f"its first trial has {first}"
            )

    def __str__(self) -> str:
        return " ".join(f"{name}={dimension}" for name, dimension in self.dimensions.items())


@dataclass(frozen=True)
class Space:
    """What a sweep searches, and which values it fixes, for each template by name.

    With several templates, the template is a parameter of a trial too, and the others are stored
    as `TEMPLATE.name`, since each template has ranges of its own.

    Raises:
        ValueError: If there is no template, or nothing of a template is searched.
    """

    templates: Mapping[str, TemplateSpace]

    def __post_init__(self) -> None:
        """Check that something is searched."""
        if not self.templates:
            raise ValueError("a space must have a template")
        for name, part in self.templates.items():
            if name != part.name:
                raise ValueError(f"the space of {part.name} must be under its name, got {name}")
            if not part.dimensions:
                raise ValueError(f"something of {name} must be searched")

    @property
    def may_have_masks(self) -> bool:
        """Whether a trial of any template may learn masks."""
        return any(part.may_have_masks for part in self.templates.values())

    @property
    def has_masks(self) -> bool:
        """Whether every trial of every template learns masks."""
        return all(part.has_masks for part in self.templates.values())

    def suggest(self, trial: Suggester) -> tuple[Template, dict[str, Value]]:
        """Return the template of a trial, and its hyperparameters that are not left at default."""
        names = list(self.templates)
        template = names[0]
        if len(names) > 1:
            template = trial.suggest_categorical("template", names)

        # Optuna stores the suggestions in this order, and seeded samplers draw in it.
        part = self.templates[template]
        values = dict(part.fixed)
        for name, dimension in part.dimensions.items():
            key = self._make_key(template, name)
            values[name] = dimension.suggest(trial, key)
        return part.template, values

    def make_first_trial(self, template: str) -> dict[str, str | float]:
        """Return a template's defaults as the parameters of an Optuna trial.

        A default that lies outside the space is moved to its edge.
        """
        defaults = self.templates[template].find_defaults()
        return self.make_trial(template, list(defaults.values()))

    def make_trial(self, template: str, values: Sequence[Value]) -> dict[str, str | float]:
        """Return typed values, one for each dimension of a template, as those of an Optuna trial.

        A value that lies outside its dimension is moved to its edge.
        """
        dimensions = self.templates[template].dimensions
        params: dict[str, str | float] = {}
        for (name, dimension), value in zip(dimensions.items(), values, strict=True):
            params[self._make_key(template, name)] = dimension.find_nearest(value)
        if len(self.templates) > 1:
            params["template"] = template
        return params

    def describe_moved_defaults(self) -> Iterator[str]:
        """Yield a sentence for each default outside the space, which the first trial moves."""
        for part in self.templates.values():
            yield from part.describe_moved_defaults()

    @property
    def digest(self) -> str:
        """Twelve digits that change with anything that changes what a trial can be."""
        # The study's name contains the digest, so started sweeps would be lost by another form of
        # the same content: a type of values with another repr, or another order in the list.
        searched: dict[str, dict[str, str]] = {}
        fixed: dict[str, dict[str, str]] = {}
        for template, part in self.templates.items():
            searched[template] = {name: str(dim) for name, dim in part.dimensions.items()}
            fixed[template] = {name: repr(value) for name, value in part.fixed.items()}
        text = json.dumps([searched, fixed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return "; ".join(f"{name}: {part}" for name, part in self.templates.items())

    def _make_key(self, template: str, name: str) -> str:
        """Return the name of a hyperparameter in an Optuna trial."""
        if len(self.templates) == 1:
            return name
        return f"{template}.{name}"
