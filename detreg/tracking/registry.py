"""Versions in MLflow's model registry, and which of them is served.

The alias `champion` is what is served; `challenger` is the newest version that did not become
champion. A version that finds nothing becomes champion by hand only, even where there is none. The
registered model's tag `champions` lists the champions before the present one, newest last.

The alias is the truth and the list is only a memory: a crash between the two writes leaves the present champion at the list's end,
and whoever reads the list drops it there. So each writer may stop after its first write and nothing false is left.
"""

import contextlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient, register_model
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detreg.errors import UsageError
from detreg.mlflow_errors import translate_mlflow_errors

CHAMPION = "champion"
CHALLENGER = "challenger"

_HISTORY = "champions"
_HISTORY_LENGTH = 20
_SCORE = "mAP"
_DIGEST = "dataset_digest"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, the alias it has got, and why."""

    name: str
    version: str
    alias: str
    reason: str


def register(
    name: str,
    model_uri: str,
    run_id: str,
    *,
    score: float,
    dataset_digest: str,
    tags: Mapping[str, str],
    again: bool = False,
) -> RegisteredVersion:
    """Registers a logged model as a new version of `name`, as champion if it has earned that, else as challenger.

    `score` is the mAP (0 to 1) on the dataset with `dataset_digest`; `tags` (template and the like) are added to the version's own. A
    version is champion if it is the first, or beats the champion on the same dataset; never if it
    finds nothing, which is a score of 0.0000 or none at all (NaN). With `again` a version that the
    run has already is taken, for what may have been interrupted after its registration. Raises
    UsageError for a name that MLflow does not take, NotFoundError where the model is not there, and
    UnreachableError.
    """
    _check_name(name)
    own = {_SCORE: repr(float(score)), _DIGEST: dataset_digest, "eid": run_id}
    with translate_mlflow_errors(f"{model_uri} is not there, so it cannot be registered"):
        there = (
            MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
            if again
            else []
        )
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # it reports on stderr, which is the caller's to write
            version = str(
                (
                    there[0] if there else register_model(model_uri, name, tags={**tags, **own})
                ).version
            )
        champion = _champion(name)
        if (
            champion is not None and str(champion.version) == version
        ):  # crowned before the interruption
            return RegisteredVersion(
                name, version, CHAMPION, champion.tags.get("reason", "it is the champion already")
            )
        wins, reason = _judge(champion, name, version, score, dataset_digest)
        if wins:
            _crown(name, version, champion)
        else:
            MlflowClient().set_registered_model_alias(name, CHALLENGER, version)
        _note(name, version, reason)
    return RegisteredVersion(name, version, CHAMPION if wins else CHALLENGER, reason)


def promote(name: str, version: str) -> RegisteredVersion:
    """Makes a version champion by hand, whatever its score.

    Raises NotFoundError for an unknown name or version, and UnreachableError.
    """
    with translate_mlflow_errors(f"{name} has no version {version}: see the model registry"):
        found = MlflowClient().get_model_version(name, version)
        champion = _champion(name)
        if champion is not None and champion.version == found.version:
            return RegisteredVersion(name, str(version), CHAMPION, "it is the champion already")
        reason = (
            f"promoted by hand, in place of version {champion.version}"
            if champion
            else "promoted by hand"
        )
        _crown(name, str(version), champion)
        _note(name, str(version), reason)
    return RegisteredVersion(name, str(version), CHAMPION, reason)


def rollback(name: str) -> RegisteredVersion:
    """Makes the champion before the present one champion again; the next call goes back one further.

    Raises NotFoundError for an unknown name, UsageError where there is no champion before, and UnreachableError.
    """
    with translate_mlflow_errors(f"{name} is not in the model registry"):
        client = MlflowClient()
        champion = _champion(name)
        earlier = [version for version in _history(name, champion) if _exists(name, version)]
        if not earlier:
            raise UsageError(
                f"{name} has no earlier champion to go back to: detreg promote {name} VERSION names one"
            )
        *rest, version = earlier
        reason = f"rolled back from version {champion.version}" if champion else "rolled back"
        client.set_registered_model_alias(name, CHAMPION, version)
        client.set_registered_model_tag(name, _HISTORY, json.dumps(rest))
        _note(name, version, reason)
    return RegisteredVersion(name, version, CHAMPION, reason)


def _judge(
    champion: ModelVersion | None, name: str, version: str, score: float, dataset_digest: str
) -> tuple[bool, str]:
    """Whether the new version becomes champion, and the reason."""
    by_hand = f"to promote it by hand: detreg promote {name} {version}"
    if not _finds_something(score):
        figure = "undefined" if math.isnan(score) else f"{score:.4f}"
        rule = "a model that finds nothing becomes champion by hand only"
        return False, f"mAP is {figure}, and {rule}; {by_hand}"
    if champion is None:
        return True, "there was no champion"
    if champion.tags.get(_DIGEST) != dataset_digest:
        return (
            False,
            f"version {champion.version}, the champion, was scored on other data, so the two cannot be compared; {by_hand}",
        )
    best = _score(champion)
    if score > best:
        return (
            True,
            f"mAP {score:.4f} beats {best:.4f} of version {champion.version} on the same data",
        )
    return (
        False,
        f"mAP {score:.4f} does not beat {best:.4f} of version {champion.version}, the champion; {by_hand}",
    )


def _finds_something(score: float) -> bool:
    """Whether a mAP is a number that is more than 0 when it is told with four digits."""
    return not math.isnan(score) and round(score, 4) > 0


def _score(version: ModelVersion) -> float:
    """The version's mAP, below every score where it has none, so that a model without one is never in the way."""
    try:
        score = float(version.tags.get(_SCORE, "nan"))
    except ValueError:
        return -math.inf
    return -math.inf if math.isnan(score) else score


def _crown(name: str, version: str, champion: ModelVersion | None) -> None:
    client = MlflowClient()
    if champion is not None:
        history = [*_history(name, champion), str(champion.version)][-_HISTORY_LENGTH:]
        client.set_registered_model_tag(name, _HISTORY, json.dumps(history))
    client.set_registered_model_alias(name, CHAMPION, version)
    if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def _note(name: str, version: str, reason: str) -> None:
    """Writes the reason down, after the alias that it explains, so that it is never told of what did not happen."""
    MlflowClient().set_model_version_tag(name, version, "reason", reason)


def _champion(name: str) -> ModelVersion | None:
    client = MlflowClient()
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return client.get_model_version(name, version) if version else None


def _history(name: str, champion: ModelVersion | None) -> list[str]:
    """The champions before the present one, oldest first."""
    history: list[str] = json.loads(
        MlflowClient().get_registered_model(name).tags.get(_HISTORY, "[]")
    )
    while champion is not None and history and history[-1] == str(champion.version):
        history.pop()
    return history


def _exists(name: str, version: str) -> bool:
    try:
        MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _check_name(name: str) -> None:
    if not name or any(mark in name for mark in "/:@"):
        raise UsageError(
            f"registered_model_name={name!r} is no name for a model: it must not be empty nor contain '/', ':' or '@'"
        )
