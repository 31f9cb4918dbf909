"""The check that every combination of a space's values can be trained, before a sweep starts.

A trial combines the values of all dimensions freely, so a rule between hyperparameters
(`CommonParams.find_problems`) must hold for every combination. Trying them all would take too
long; these are enough:

1. *One group of hyperparameters at a time.* Each rule looks at values of one group of
   `CommonParams.RULE_GROUPS`, so the values of the other groups do not matter to it. They are those
   of the first trial.
2. *Outermost values of each dimension.* The rules are monotone in numbers: they compare the sides
   of sizes, one by one, and ask whether frozen_stages is above 0. Take a combination that breaks
   a rule, and move each number to the end of its range where the rule is stricter: the rule stays
   broken. So if any combination breaks it, one of outermost values does, too. Of choices without
   an order, all are tried.

Both are tested with random spaces (tests/test_combinations.py), since a new rule could break them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import itemgetter

from detreg.params import Param, Value
from detreg.sweeps.dimension import Dimension
from detreg.sweeps.space import TemplateSpace

_MAX_PROBLEMS = 5
"""Problems of one template's combinations that are listed; the others are counted."""

Combination = tuple[Value, ...]
"""Typed values of several dimensions, in the order of their names."""

Size = tuple[float, ...]
"""One side, or width and height."""


def find_combination_problems(space: TemplateSpace) -> list[str]:
    """Return which combinations of a template's values cannot be trained.

    Each problem is reported once, with the values of the first combination that has it.
    """
    examples: dict[str, str] = {}
    for group in space.template.params.RULE_GROUPS:
        searched = [name for name in group if name in space.dimensions]
        for problem, example in _find_broken_rules(space, searched).items():
            # The example is empty if no value of this group is to blame. The values of another
            # group may be, and their turn gives the example.
            examples[problem] = examples.get(problem) or example

    problems = []
    for problem, example in examples.items():
        if example:
            problems.append(f"space: {space.name} with {example} cannot be trained: {problem}")
        else:
            problems.append(f"{space.name}: {problem}")

    left_out = len(problems) - _MAX_PROBLEMS
    if left_out > 0:
        more = f"space: {space.name} has {left_out} more such problems with other values"
        return [*problems[:_MAX_PROBLEMS], more]
    return problems


def drop_broken_dimensions(space: TemplateSpace) -> TemplateSpace:
    """Return the space without the dimensions that do not go with the fixed values.

    This is for the default space. A dimension that the user has named is refused instead.
    """
    for name in space.dimensions:
        # Each dimension is tried in the space that is left, since a dropped one has its default
        # in the first trial.
        if _find_broken_rules(space, [name]):
            rest = dict(space.dimensions)
            del rest[name]
            space = replace(space, dimensions=rest)
    return space


def _find_broken_rules(space: TemplateSpace, names: Sequence[str]) -> dict[str, str]:
    """Return the problems of all combinations of the dimensions `names`.

    The other dimensions have the values of the first trial. Each problem comes with the values
    that are to blame in the first combination that has it, such as `image_size=64`.
    """
    problems = _find_problems(space, names)
    examples: dict[str, str] = {}
    for combination, found in problems.items():
        for problem in found:
            if problem not in examples:
                blamed = _find_blame(problems, combination, problem)
                examples[problem] = _format_values(space, names, combination, blamed)
    return examples


def _find_problems(space: TemplateSpace, names: Sequence[str]) -> dict[Combination, list[str]]:
    """Return the problems of each combination of outermost values of the dimensions `names`."""
    first_values = space.find_first_values()
    outermost_values = [_find_outermost_values(space.dimensions[name]) for name in names]

    problems: dict[Combination, list[str]] = {}
    for combination in product(*outermost_values):
        changes = dict(zip(names, combination, strict=True))
        params = space.make_params(first_values | changes)
        problems[combination] = params.find_problems()
    return problems


def _format_values(
    space: TemplateSpace, names: Sequence[str], combination: Combination, positions: Sequence[int]
) -> str:
    """Return the values at some positions of a combination, as `name=value name=value`."""
    words = []
    for position in positions:
        name = names[position]
        param = space.dimensions[name].param
        words.append(f"{name}={param.format(combination[position])}")
    return " ".join(words)


def _find_blame(
    problems: Mapping[Combination, list[str]], example: Combination, problem: str
) -> list[int]:
    """Return the positions of the values of an example that are to blame for a problem.

    With these values, a combination has the problem whatever its other values are; and without one
    of them, that is not so.
    """
    # Positions are cleared one after another. One that could not be cleared need not be tried
    # again: the fewer values are held, the more combinations would have to have the problem.
    blamed = list(range(len(example)))
    for position in range(len(example)):
        others = [other for other in blamed if other != position]
        if _always_has_problem(problems, example, others, problem):
            blamed = others
    return blamed


def _always_has_problem(
    problems: Mapping[Combination, list[str]],
    example: Combination,
    positions: Sequence[int],
    problem: str,
) -> bool:
    """Return whether every combination with the example's values at `positions` has a problem."""
    for combination, found in problems.items():
        is_alike = all(combination[position] == example[position] for position in positions)
        if is_alike and problem not in found:
            return False
    return True


def _find_outermost_values(dimension: Dimension) -> list[Value]:
    """Return typed values of a dimension that are enough to break any rule that it can break.

    Long lists of choices are thus as quick to check as ranges.
    """
    param = dimension.param
    if param.type not in ("size", "int", "float", "text"):
        return list(dimension.ends)

    # Rules ask of any value whether it is empty, so None is tried beside the outermost ones.
    empty: list[Value] = [None] if None in dimension.ends else []
    if param.type == "size":
        sizes = [value for value in dimension.ends if isinstance(value, tuple)]
        return [*empty, *_find_outermost_sizes(param, sizes)]
    if param.type == "text":
        # Nothing else is asked of a text, so one stands for all.
        texts = [value for value in dimension.ends if value is not None]
        return [*texts[:1], *empty]
    numbers = [value for value in dimension.ends if isinstance(value, int | float)]
    return [min(numbers), max(numbers), *empty]


def _find_outermost_sizes(param: Param, sizes: Sequence[Size]) -> list[Size]:
    """Return the smallest and the largest sizes by each side, and those off the grid.

    Rules compare widths with widths and heights with heights, of sizes of the same form: one side,
    or width and height. A published size off the grid has a rule of its own.
    """
    outermost: list[Size] = []
    for num_sides, axis in ((1, 0), (2, 0), (2, 1)):
        alike = [size for size in sizes if len(size) == num_sides]
        alike.sort(key=itemgetter(axis))

        # One size for each side off the grid, because its rule looks at that side alone.
        off_grid = {size[axis]: size for size in alike if size[axis] in param.also}
        outermost += [*alike[:1], *off_grid.values(), *alike[-1:]]

    # The same size may be an outermost one by both of its sides.
    return list(dict.fromkeys(outermost))
