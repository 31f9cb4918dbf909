"""Derived files are not stale, and what the repository says about itself is true."""

import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.projects._project_spec import Project, load_project
from packaging.requirements import Requirement

from detreg import __version__, generate
from detreg.arguments import parse_arguments
from detreg.generate import COMMANDS, FILES, ROOT
from detreg.options import RunOptions, SweepOptions
from detreg.params import get_params, to_texts
from detreg.pipeline import parse_settings
from detreg.templates import TEMPLATES, find_template
from detreg.templates.template import Template

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ALIASES = {alias: template for template in TEMPLATES.values() for alias in template.aliases}
ENTRY_POINTS = TEMPLATES | ALIASES

EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@dataclass(frozen=True)
class TrainCommand:
    """What detreg parses from the words of a `python -m detreg train` command."""

    template: Template
    values: dict[str, str]


@pytest.fixture(scope="module")
def mlproject() -> Project:
    """Return MLproject as `mlflow run` reads it."""
    return load_project(str(ROOT))


def compute_command(mlproject: Project, entry_point: str, **values: str) -> list[str]:
    """Return the words of the command that `mlflow run -e ENTRY_POINT -P name=value` runs."""
    command = mlproject.get_entry_point(entry_point).compute_command(values, None)
    return shlex.split(command)


def parse_train_command(words: list[str]) -> TrainCommand:
    """Parse the words of a `python -m detreg train` command."""
    assert words[:4] == ["python", "-m", "detreg", "train"]
    arguments = parse_arguments(words[3:])
    assert arguments.unknown == {}

    template = find_template(arguments.template)
    names = get_params(template.params) | get_params(RunOptions)
    values = {name: value for name, value in vars(arguments).items() if name in names}
    return TrainCommand(template, values)


def normalize_package_name(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", FILES)
def test_a_generated_file_is_what_would_be_generated(path: str) -> None:
    assert (ROOT / path).read_text() == FILES[path](), "stale: run `make generate`"


def test_there_is_one_mlproject_in_any_case() -> None:
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    paths = listing.stdout.splitlines()
    tops = {path.split("/")[0] for path in paths}
    assert [top for top in tops if top.lower() == "mlproject"] == ["MLproject"]
    names = [path.name for path in ROOT.iterdir()]
    assert [name for name in names if name.lower() == "mlproject"] == ["MLproject"]


def test_no_two_paths_differ_by_case_only() -> None:
    """Some file systems could not check both out."""
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    paths = [path.lower() for path in listing.stdout.splitlines()]
    assert len(set(paths)) == len(paths)


def test_mlflow_knows_every_template_and_alias(mlproject: Project) -> None:
    assert mlproject.name == "detreg"
    assert set(mlproject._entry_points) == {"main", "sweep", *ENTRY_POINTS, *COMMANDS}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_command_of_an_entry_point_has_the_declared_defaults(
    mlproject: Project, name: str
) -> None:
    train = parse_train_command(compute_command(mlproject, name))
    template = train.template
    assert template is ENTRY_POINTS[name]
    assert train.values == to_texts(template.params()) | to_texts(RunOptions())
    assert parse_settings(template, train.values) == (template.params(), RunOptions())
    assert next(iter(mlproject.get_entry_point(name).parameters)) == "data"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_value_with_blanks_and_quotes_arrives(mlproject: Project, name: str) -> None:
    given = {"data": "/data/my boats", "image_size": "320", "run_name": "it's $HOME"}
    train = parse_train_command(compute_command(mlproject, name, **given))
    assert {key: train.values[key] for key in given} == given


def test_a_parameter_that_is_not_declared_is_refused(mlproject: Project) -> None:
    words = compute_command(mlproject, "yolox", imagesize="320")
    assert parse_arguments(words[3:]).unknown == {"imagesize": "320"}


def test_the_demo_is_a_valid_training(mlproject: Project) -> None:
    train = parse_train_command(compute_command(mlproject, "main"))
    assert train.values == generate.DEMO
    params, options = parse_settings(train.template, train.values)
    assert options.data == "sample"
    assert params.pretrained_weights == "none"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_other_entry_points_are_commands_of_detreg(mlproject: Project, name: str) -> None:
    parameters = mlproject.get_entry_point(name).parameters
    required = [parameter for parameter, value in parameters.items() if value.default is None]
    words = compute_command(mlproject, name, **dict.fromkeys(required, "given"))
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
    "line",
    [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["train"],
        *PYPROJECT["dependency-groups"]["dev"],
    ],
)
def test_a_dependency_is_locked_to_a_version_that_it_allows(line: str) -> None:
    dependency = Requirement(line)
    name = normalize_package_name(dependency.name)
    locked = [Requirement(other) for other in LOCK]
    pins = [other for other in locked if normalize_package_name(other.name) == name]
    assert pins
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        assert dependency.specifier.contains(version, prereleases=True)


def test_the_version_is_one() -> None:
    assert PYPROJECT["project"]["version"] == __version__


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_file_of_a_template_opens_with_the_command_that_runs_it(name: str) -> None:
    text = (ROOT / "detreg" / "templates" / f"{name}.py").read_text()
    assert text.startswith('"""')
    assert f"mlflow run . -e {name} " in text.split('"""')[1]


@EACH_PAGE
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets += re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        is_elsewhere = re.match(r"[a-z]+:|#", target)
        if not is_elsewhere:
            path, _, _ = target.partition("#")
            assert (page.parent / path).exists(), target


@EACH_PAGE
def test_the_flags_that_a_page_shows_exist(page: Path) -> None:
    known = {"template", *get_params(RunOptions), *get_params(SweepOptions)}
    for template in TEMPLATES.values():
        known.update(get_params(template.params))
    for entry_point in COMMANDS.values():
        known.update(entry_point.defaults)

    for name in re.findall(r"-P ([a-zA-Z_]+)=", page.read_text()):
        assert name in known, name


@EACH_PAGE
def test_the_entry_points_that_a_page_shows_exist(page: Path) -> None:
    known = {*ENTRY_POINTS, *COMMANDS, "sweep", "TEMPLATE"}
    for name in re.findall(r"mlflow run \S+ -e ([A-Za-z_0-9]+)", page.read_text()):
        assert name in known, name
