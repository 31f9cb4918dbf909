"""How this process was started, so that the commands it prints work where its user stands."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from detreg.signals import SHELLS

if TYPE_CHECKING:
    import psutil

# Of `mlflow run`, each with a value: what a printed command says anew, or what was for one run.
_OPTIONS_OF_ONE_RUN = (
    "-e",
    "--entry-point",
    "-P",
    "--param-list",
    "--run-name",
    "--run-id",
)


@dataclass(frozen=True)
class Invocation:
    """The words that `mlflow run` was given beside entry point and parameters, and the folder.

    `project` is empty where detreg was started without it. `folder` is where the user stands.
    """

    project: tuple[str, ...]
    folder: Path

    @property
    def environment_flag(self) -> str:
        """The flag of `mlflow models serve` for the environment that the project has."""
        if not self.project:
            return " --env-manager local"
        for word, value in pairwise(self.project):
            if word == "--env-manager":
                return f" --env-manager {value}"
        return ""

    @classmethod
    def find(cls) -> "Invocation":
        """Return that of this process. To be called before the MLflow run is started."""
        runner = find_runner()
        if runner is None:
            return cls((), Path.cwd())

        import psutil  # noqa: PLC0415 (as in find_runner)

        try:
            return cls(read_project(runner.cmdline()), Path(runner.cwd()))
        except psutil.Error:
            return cls((), Path.cwd())


def find_runner() -> "psutil.Process | None":
    """Return the process that runs an MLflow project: `mlflow run`, or a program that calls MLflow.

    None where it is gone, or there is no project. To be called before the MLflow run is started,
    after which nothing tells of the project.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return None

    import psutil  # noqa: PLC0415 (only a process of `mlflow run` needs it)

    try:
        runner = psutil.Process().parent()
        if runner is not None and runner.name() in SHELLS:
            runner = runner.parent()
    except psutil.Error:
        return None
    return runner


def read_project(words: Sequence[str]) -> tuple[str, ...]:
    """Return what the command line of `mlflow run` says about project and environment.

    The result is empty for another program.
    """
    names = [PurePath(word).name for word in words]
    places = [place + 2 for place, pair in enumerate(pairwise(names)) if pair == ("mlflow", "run")]
    if not places:
        return ()

    project = []
    rest = iter(words[places[0] :])
    for word in rest:
        if word in _OPTIONS_OF_ONE_RUN:
            next(rest, None)
        elif not word.startswith(_OPTIONS_OF_ONE_RUN):  # such as -Pname=value
            project.append(word)
    return tuple(project)
