"""Renders detreg/signatures.pyi: `detreg.train` with the keywords of each template, for editors.

A type checker takes it in place of `detreg.pipeline.train`, which takes any keyword and refuses
unknown ones with all other problems.
"""

from collections.abc import Iterable

from detreg.options import RunOptions
from detreg.params import NONE, Param, get_params
from detreg.templates import TEMPLATES
from detreg.templates.template import Template

_TYPES = {
    "int": "int",
    "float": "float",
    "bool": "bool",
    "size": "int | tuple[int, int]",
    "numbers": "float | Sequence[float]",
    "text": "str | PathLike[str]",
}
"""The Python types of params without choices."""

_HEAD = """\
# {notice}
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, overload

"""

_LAST = '''\
@overload
def train(template: str, **values: Any) -> dict[str, Any]:
    """Train, export and register a model of any template, which may be spelled in any case."""
'''


def render_train_stub(notice: str) -> str:
    """Render the stub, with a notice in its first line."""
    overloads = [_render_overload(template) for template in TEMPLATES.values()]
    return _HEAD.format(notice=notice) + "\n".join([*overloads, _LAST])


def _render_overload(template: Template) -> str:
    params = get_params(template.params) | get_params(RunOptions)
    # What every training needs comes first.
    params = {"data": params["data"]} | params
    lines = [
        "@overload",
        "def train(",
        f"    template: {_render_literal([template.name, *template.aliases])},",
        "    *,",
        *(f"    {_render_param(param)}," for param in params.values()),
        ") -> dict[str, Any]:",
        f'    """{template.summary}.',
        "",
        *_render_help(params.values()),
        '    """',
    ]
    return "\n".join([*lines, ""])


def _render_param(param: Param) -> str:
    """Return a keyword with its type and default."""
    types = [_TYPES.get(param.type, "str")]
    if param.choices:
        types = [_render_literal(param.choices)]
    if param.optional:
        types += [_render_literal([param.empty]), "None"]
    elif param.choices and NONE in param.choices:
        types.append("None")
    return f"{param.name}: {' | '.join(types)} = {_render_default(param)}"


def _render_literal(texts: Iterable[str]) -> str:
    quoted = ", ".join(f'"{text}"' for text in texts)
    return f"Literal[{quoted}]"


def _render_default(param: Param) -> str:
    """Return the default as Python writes it; one number of a size stands for a tuple of one."""
    if param.type == "size" and isinstance(param.default, tuple) and len(param.default) == 1:
        return repr(param.default[0])
    return f'"{param.default}"' if isinstance(param.default, str) else repr(param.default)


def _render_help(params: Iterable[Param]) -> list[str]:
    lines = []
    for param in params:
        help = param.help.replace("\\", "\\\\").replace('"""', "'''")
        lines.append(f"    {param.name}: {help}")
    return lines
