"""What the user asks of a sweep, checked before any dataset is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from detreg import templates, torchrun
from detreg.data.refusals import add_data_problems
from detreg.defaults import FEW_IMAGES
from detreg.errors import UsageError
from detreg.options import RunOptions, SweepOptions, rename_former_options
from detreg.params import build, get_params
from detreg.sweeps.duration import parse_duration
from detreg.sweeps.space import Space
from detreg.sweeps.space_text import parse_space
from detreg.templates.template import Template

Options = TypeVar("Options", RunOptions, SweepOptions)


@dataclass(frozen=True)
class SweepRequest:
    """Ranges and fixed values (`space`), run options and sweep options of one sweep."""

    space: Space
    options: RunOptions
    sweep: SweepOptions

    def __post_init__(self) -> None:
        """Raise UsageError if the budget is not a duration."""
        try:
            _ = self.budget_seconds
        except ValueError as error:
            raise UsageError(f"budget must be {error}") from error

    @property
    def budget_seconds(self) -> float | None:
        """Seconds after which the command ends, or None if it takes what its trials take."""
        if self.sweep.budget is None:
            return None
        return parse_duration(self.sweep.budget)


def parse_templates(text: str) -> tuple[Template, ...]:
    """Return the templates that a text such as `yolox,ssd` names, each once, in its order.

    Raises:
        UsageError: If a name is unknown.
    """
    found: dict[str, Template] = {}
    for name in text.replace(" ", "").split(","):
        template = templates.find_template(name)
        found[template.name] = template
    return tuple(found.values())


def make_request(chosen: tuple[Template, ...], values: Mapping[str, object]) -> SweepRequest:
    """Read a sweep's options, ranges and fixed values from texts or Python values by name.

    What is neither a run option nor a sweep option is a fixed hyperparameter, and may be written
    `TEMPLATE.name`.

    Raises:
        UsageError: With every problem at once, and those of the dataset.
        NotFoundError: If `space` names a YAML file that does not exist.
    """
    with add_data_problems(values):
        return _make_request(chosen, values)


def _make_request(chosen: tuple[Template, ...], values: Mapping[str, object]) -> SweepRequest:
    values = rename_former_options(values)
    problems: list[str] = []
    if torchrun.get_world_size() > 1:
        problems.append(
            "a sweep starts its own workers, one for each GPU: run it without torchrun, "
            "and set workers="
        )

    run_options = _build_options(RunOptions, values, problems)
    sweep_options = _build_options(SweepOptions, values, problems)

    # With a broken option, the fixed values are still checked, beside the default space.
    space_text = sweep_options.space if sweep_options and not problems else None
    option_names = get_params(RunOptions) | get_params(SweepOptions)
    fixed = {name: value for name, value in values.items() if name not in option_names}
    try:
        recipe = run_options.recipe if run_options else FEW_IMAGES
        searched = parse_space(chosen, space_text, fixed, recipe)
        if run_options:
            problems += run_options.find_metric_problems(has_masks=searched.has_masks)
        if run_options and sweep_options and not problems:
            return SweepRequest(searched, run_options, sweep_options)
    except UsageError as error:
        problems += error.problems
    raise UsageError(problems)


def _build_options(
    cls: type[Options], values: Mapping[str, object], problems: list[str]
) -> Options | None:
    """Build the options of a class from those of the values that are its own.

    What is wrong is appended to `problems`, and None returned.
    """
    own = {name: values[name] for name in get_params(cls) if name in values}
    try:
        return build(cls, own)
    except UsageError as error:
        problems += error.problems
        return None
