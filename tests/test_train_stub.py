"""The types of `detreg.train` for editors: the keywords of each template, and no others."""

import ast
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import detreg
from detreg.generate import ROOT
from detreg.options import RunOptions
from detreg.params import get_params
from detreg.templates import TEMPLATES

STUB = ROOT / "detreg" / "signatures.pyi"
OVERLOADS = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.FunctionDef)]


def get_first_type(overload: ast.FunctionDef) -> str:
    (template,) = overload.args.args
    assert template.annotation is not None
    return ast.unparse(template.annotation)


@pytest.mark.parametrize("overload", OVERLOADS[:-1], ids=get_first_type)
def test_an_overload_has_the_keywords_of_its_template(overload: ast.FunctionDef) -> None:
    template = next(name for name in TEMPLATES if f"'{name}'" in get_first_type(overload))
    for alias in TEMPLATES[template].aliases:
        assert f"'{alias}'" in get_first_type(overload)

    params = get_params(TEMPLATES[template].params) | get_params(RunOptions)
    keywords = [keyword.arg for keyword in overload.args.kwonlyargs]
    assert keywords[0] == "data"
    assert sorted(keywords) == sorted(params)

    documentation = ast.get_docstring(overload)
    assert documentation is not None
    for keyword, default in zip(keywords, overload.args.kw_defaults, strict=True):
        assert f"\n{keyword}: {params[keyword].help[:20]}" in documentation
        # The default is one that the declaration takes, and means the same.
        assert isinstance(default, ast.expr)
        param = params[keyword]
        assert param.parse(ast.literal_eval(default)) == param.default


def test_there_is_one_for_each_template_and_one_for_all() -> None:
    assert len(OVERLOADS) == len(TEMPLATES) + 1
    assert get_first_type(OVERLOADS[-1]) == "str"


def test_types_are_part_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["detreg"]
    package = ROOT / "detreg"
    shipped = {path for pattern in patterns for path in package.glob(pattern)}
    assert {package / "py.typed", STUB} <= shipped


if TYPE_CHECKING:
    # `make check` runs mypy over these.
    assert_type(
        detreg.train("yolox", data=Path("boats"), image_size=640, precision="bf16"),
        dict[str, Any],
    )
    detreg.train("MMDetection_FasterRCNN", image_size=(800, 512), anchor_ratios=(0.5, 1.0))
    detreg.train("ssd", batch_size="auto", load_from=None, seed=1)
    detreg.train("YOLOX", num_epochs=3)
