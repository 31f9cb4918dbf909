"""Versions in MLflow's model registry, and which of them is served.

The alias `champion` is what is served; `challenger` is the newest version that did not become
champion. A version that finds nothing becomes champion by hand only, even where there is none. The
registered model's tag `champions` lists the champions before the present one, newest last.

The alias is the truth and the list is only a memory: a crash between the two writes leaves the
present champion at the list's end, and whoever reads the list drops it there. So each writer may
stop after its first write, and nothing false is left.
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

# Tags of a version.
SCORE = "mAP"
DIGEST = "dataset_digest"
EID = "eid"
REASON = "reason"

# Tag of a registered model.
EARLIER_CHAMPIONS = "champions"
MAX_EARLIER_CHAMPIONS = 20

FORBIDDEN_IN_NAMES = "/:@"
SCORE_DIGITS = 4
"""Digits of a mAP in messages; one that rounds to 0 counts as finding nothing."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, the alias it was given, and why."""

    name: str
    version: str
    alias: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, and why."""

    is_champion: bool
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
    """Register a logged model as a new version of `name`, as champion or as challenger.

    `score` is the mAP (0 to 1) on the dataset with `dataset_digest`; `tags` (template and the like)
    are added to the version's own. A version becomes champion if it is the first, or beats the
    champion on the same dataset; never if it finds nothing, which is a score of 0.0000 or none at
    all (NaN). With `again`, a version that the run already has is taken, for what may have been
    interrupted after its registration. Raises UsageError for a name that MLflow does not take,
    NotFoundError where the model does not exist, and UnreachableError.
    """
    _check_name(name)
    all_tags = {**tags, SCORE: repr(float(score)), DIGEST: dataset_digest, EID: run_id}

    with translate_mlflow_errors(f"{model_uri} is not there, so it cannot be registered"):
        existing = _find_version_of_run(name, run_id) if again else None
        version = existing or _create_version(name, model_uri, all_tags)

        champion = _get_champion(name)
        if champion is not None and str(champion.version) == version:
            # It was made champion before the interruption.
            reason = champion.tags.get(REASON, "it is the champion already")
            return RegisteredVersion(name, version, CHAMPION, reason)

        decision = _compare_with_champion(champion, name, version, score, dataset_digest)
        if decision.is_champion:
            _make_champion(name, version, champion)
        else:
            MlflowClient().set_registered_model_alias(name, CHALLENGER, version)
        _tag_reason(name, version, decision.reason)

    alias = CHAMPION if decision.is_champion else CHALLENGER
    return RegisteredVersion(name, version, alias, decision.reason)


def promote(name: str, version: str) -> RegisteredVersion:
    """Make a version champion by hand, whatever its score.

    Raises NotFoundError for an unknown name or version, and UnreachableError.
    """
    with translate_mlflow_errors(f"{name} has no version {version}: see the model registry"):
        promoted = MlflowClient().get_model_version(name, version)
        champion = _get_champion(name)
        if champion is None:
            reason = "promoted by hand"
        elif champion.version == promoted.version:
            return RegisteredVersion(name, str(version), CHAMPION, "it is the champion already")
        else:
            reason = f"promoted by hand, in place of version {champion.version}"

        _make_champion(name, str(version), champion)
        _tag_reason(name, str(version), reason)
    return RegisteredVersion(name, str(version), CHAMPION, reason)


def rollback(name: str) -> RegisteredVersion:
    """Make the champion before the present one champion again; the next call goes back further.

    Raises NotFoundError for an unknown name, UsageError where there is no champion before, and
    UnreachableError.
    """
    with translate_mlflow_errors(f"{name} is not in the model registry"):
        champion = _get_champion(name)
        earlier = _list_earlier_champions(name, champion)
        existing = [version for version in earlier if _has_version(name, version)]
        if not existing:
            raise UsageError(
                f"{name} has no earlier champion to go back to: "
                f"detreg promote {name} VERSION names one"
            )

        version = existing.pop()
        reason = f"rolled back from version {champion.version}" if champion else "rolled back"

        # The alias first: what a crash leaves after it is described at the top of this file.
        client = MlflowClient()
        client.set_registered_model_alias(name, CHAMPION, version)
        client.set_registered_model_tag(name, EARLIER_CHAMPIONS, json.dumps(existing))
        _tag_reason(name, version, reason)
    return RegisteredVersion(name, version, CHAMPION, reason)


def _check_name(name: str) -> None:
    if not name or any(mark in name for mark in FORBIDDEN_IN_NAMES):
        raise UsageError(
            f"registered_model_name must not be empty nor contain '/', ':' or '@', got {name!r}"
        )


def _find_version_of_run(name: str, run_id: str) -> str | None:
    condition = f"name = '{name}' and run_id = '{run_id}'"
    versions = MlflowClient().search_model_versions(condition)
    return str(versions[0].version) if versions else None


def _create_version(name: str, model_uri: str, tags: Mapping[str, str]) -> str:
    # MLflow reports on stderr, which belongs to the caller.
    with contextlib.redirect_stderr(io.StringIO()):
        created = register_model(model_uri, name, tags=dict(tags))
    return str(created.version)


def _compare_with_champion(
    champion: ModelVersion | None, name: str, version: str, score: float, dataset_digest: str
) -> Decision:
    """Decide whether a new version with a mAP of `score` becomes champion."""
    by_hand = f"to promote it by hand: detreg promote {name} {version}"

    if math.isnan(score) or round(score, SCORE_DIGITS) <= 0:
        figure = "undefined" if math.isnan(score) else f"{score:.4f}"
        rule = "a model that finds nothing becomes champion by hand only"
        return Decision(False, f"mAP is {figure}, and {rule}; {by_hand}")

    if champion is None:
        return Decision(True, "there was no champion")

    other = f"version {champion.version}"
    if champion.tags.get(DIGEST) != dataset_digest:
        problem = f"{other}, the champion, was scored on other data, so the two cannot be compared"
        return Decision(False, f"{problem}; {by_hand}")

    best = _read_score(champion)
    if score > best:
        return Decision(True, f"mAP {score:.4f} beats {best:.4f} of {other} on the same data")
    comparison = f"mAP {score:.4f} does not beat {best:.4f} of {other}, the champion"
    return Decision(False, f"{comparison}; {by_hand}")


def _read_score(version: ModelVersion) -> float:
    """Return a version's mAP; minus infinity where it has none, so that any score beats it."""
    try:
        score = float(version.tags.get(SCORE, "nan"))
    except ValueError:
        return -math.inf
    return -math.inf if math.isnan(score) else score


def _make_champion(name: str, version: str, champion: ModelVersion | None) -> None:
    """Move the alias from the present champion to a version, and remember that champion."""
    client = MlflowClient()
    if champion is not None:
        earlier = [*_list_earlier_champions(name, champion), str(champion.version)]
        newest = json.dumps(earlier[-MAX_EARLIER_CHAMPIONS:])
        client.set_registered_model_tag(name, EARLIER_CHAMPIONS, newest)

    client.set_registered_model_alias(name, CHAMPION, version)

    aliases = client.get_registered_model(name).aliases
    if str(aliases.get(CHALLENGER)) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def _tag_reason(name: str, version: str, reason: str) -> None:
    """Tag a version with why it has its alias.

    To be called after the alias is set, so that no reason is given for what did not happen.
    """
    MlflowClient().set_model_version_tag(name, version, REASON, reason)


def _get_champion(name: str) -> ModelVersion | None:
    client = MlflowClient()
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return client.get_model_version(name, version) if version else None


def _list_earlier_champions(name: str, champion: ModelVersion | None) -> list[str]:
    """Return the versions that were champion before the present one, oldest first."""
    tags = MlflowClient().get_registered_model(name).tags
    versions: list[str] = json.loads(tags.get(EARLIER_CHAMPIONS, "[]"))
    # A crash between two writes leaves the present champion at the end.
    while champion is not None and versions and versions[-1] == str(champion.version):
        versions.pop()
    return versions


def _has_version(name: str, version: str) -> bool:
    try:
        MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True
