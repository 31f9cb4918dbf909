"""What is derived is not stale, and what the repository says about itself is true."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from mlflow.projects._project_spec import Project, load_project
from packaging.requirements import Requirement

from detreg import __version__, generate, templates
from detreg.arguments import parse_arguments
from detreg.generate import FILES, ROOT
from detreg.options import RunOptions, SweepOptions
from detreg.params import get_params, to_texts
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ALIASES = {alias: template for template in TEMPLATES.values() for alias in template.aliases}
ENTRY_POINTS = TEMPLATES | ALIASES


@pytest.fixture(scope="module")
def mlproject() -> Project:
    """MLproject as `mlflow run` reads it."""
    return load_project(str(ROOT))


def command(mlproject: Project, entry_point: str, **values: str) -> list[str]:
    """The words of the command that `mlflow run -e ENTRY_POINT -P name=value` runs."""
    return shlex.split(mlproject.get_entry_point(entry_point).compute_command(values, None))


def parsed(words: list[str]) -> tuple[templates.Template, dict[str, str]]:
    """The template and values that detreg reads from the words of a `python -m detreg train` command."""
    assert words[:4] == ["python", "-m", "detreg", "train"]
    arguments = parse_arguments(words[3:])
    assert arguments.unknown == {}
    template = templates.find_template(arguments.template)
    names = get_params(template.params) | get_params(RunOptions)
    return template, {name: value for name, value in vars(arguments).items() if name in names}


@pytest.mark.parametrize("path", FILES)
def test_a_generated_file_is_what_would_be_generated(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path](), "stale: run `make generate`"


def test_there_is_one_mlproject_in_any_case() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert {path.split("/")[0] for path in listed if path.split("/")[0].lower() == "mlproject"} == {
        "MLproject"
    }
    lowered = [path.lower() for path in listed]
    assert len(set(lowered)) == len(lowered), (
        "names that differ by case only cannot all be checked out everywhere"
    )
    assert [path.name for path in ROOT.iterdir() if path.name.lower() == "mlproject"] == [
        "MLproject"
    ]


def test_mlflow_knows_every_template_and_alias(mlproject: Project) -> None:
    assert mlproject.name == "detreg"
    assert set(mlproject._entry_points) == {"main", "sweep", *ENTRY_POINTS, *generate.COMMANDS}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_of_an_entry_point_has_the_declared_defaults(
    mlproject: Project, name: str
) -> None:
    template, values = parsed(command(mlproject, name))
    assert template is ENTRY_POINTS[name]
    assert set(values) == set(get_params(template.params) | get_params(RunOptions))
    assert values == to_texts(template.params()) | to_texts(RunOptions())
    assert parse_settings(template, values) == (template.params(), RunOptions())
    assert next(iter(mlproject.get_entry_point(name).parameters)) == "data"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_that_mlflow_is_given_arrives(mlproject: Project, name: str) -> None:
    _, values = parsed(
        command(mlproject, name, data="/data/my boats", image_size="320", run_name="it's $HOME")
    )
    assert (values["data"], values["image_size"], values["run_name"]) == (
        "/data/my boats",
        "320",
        "it's $HOME",
    )


def test_a_parameter_that_is_not_declared_is_refused(mlproject: Project) -> None:
    words = command(mlproject, "yolox", imagesize="320")
    assert parse_arguments(words[3:]).unknown == {"imagesize": "320"}


def test_the_demo_is_a_valid_training(mlproject: Project) -> None:
    template, values = parsed(command(mlproject, "main"))
    assert values == generate.DEMO
    params, options = parse_settings(template, values)
    assert options.data == "sample"
    assert params.pretrained_weights == "none"


@pytest.mark.parametrize("name", generate.COMMANDS)
def test_the_other_entry_points_are_commands_of_detreg(mlproject: Project, name: str) -> None:
    parameters = mlproject.get_entry_point(name).parameters
    given = {parameter: "given" for parameter, value in parameters.items() if value.default is None}
    words = command(mlproject, name, **given)
    assert words[:3] == ["python", "-m", "detreg"]
    arguments = vars(parse_arguments(words[3:]))
    assert arguments["unknown"] == {}
    assert callable(arguments["command"])


def test_no_parameter_has_an_empty_default(mlproject: Project) -> None:
    for name, entry_point in mlproject._entry_points.items():
        for parameter in entry_point.parameters.values():
            assert parameter.default != "", (name, parameter.name)
            assert parameter.type == "string"


def test_conda_yaml_carries_the_digest_of_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert generate.render_conda() == (ROOT / "conda.yaml").read_text()
    (tmp_path / "requirements.lock").write_text("torch==0.0.1\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.render_conda() != (ROOT / "conda.yaml").read_text()


def test_the_lock_names_no_index() -> None:
    assert len(LOCK) > 50
    for line in LOCK:
        requirement = Requirement(line)  # an option such as --index-url is none
        assert requirement.url is None, line
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], line
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize(
    "line", [*PYPROJECT["project"]["dependencies"], *PYPROJECT["dependency-groups"]["dev"]]
)
def test_a_dependency_is_locked_to_a_version_that_it_allows(line: str) -> None:
    wanted = Requirement(line)
    locked = [Requirement(other) for other in LOCK]
    pins = [other for other in locked if normal(other.name) == normal(wanted.name)]
    assert pins
    for pin in pins:
        assert wanted.specifier.contains(str(pin.specifier).removeprefix("=="), prereleases=True)


def normal(name: str) -> str:
    """A package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_version_is_one() -> None:
    assert PYPROJECT["project"]["version"] == __version__


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_file_of_a_template_opens_with_the_command_that_runs_it(name: str) -> None:
    text = (ROOT / "detreg" / "templates" / f"{name}.py").read_text()
    assert text.startswith('"""')
    assert f"mlflow run . -e {name} " in text.split('"""')[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|href)="([^"]+)"', text
    ):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_flags_and_entry_points_that_a_page_shows_exist(page: Path) -> None:
    known = set(get_params(RunOptions)).union(
        *(get_params(template.params) for template in TEMPLATES.values())
    )
    known |= {
        "model",
        "images",
        "out",
        "name",
        "version",
        "split",
        "template",
        *get_params(SweepOptions),
    }
    text = page.read_text()
    for name in re.findall(r"-P ([a-zA-Z_]+)=", text):
        assert name in known, name
    for name in re.findall(r"mlflow run \S+ -e ([A-Za-z_0-9]+)", text):
        assert name in {*ENTRY_POINTS, *generate.COMMANDS, "sweep", "TEMPLATE"}, name
