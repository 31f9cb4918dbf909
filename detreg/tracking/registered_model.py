"""A registered model in MLflow, read and written one request at a time.

What is written when, and by whom, is decided in registry.py.
"""

import contextlib
import io
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient, register_model
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detreg.mlflow_errors import retry_on_conflict
from detreg.promotion_rule import PromotionRule, parse_promotion_rule
from detreg.redaction import redact
from detreg.tracking.decision import Candidate, Evidence
from detreg.tracking.records import VERSION_MARK, Registration
from detreg.tracking.standing import Move, MoveKind, Standing, compute_standing

CHAMPION = "champion"
CHALLENGER = "challenger"

# Tags of a version.
SCORE = "mAP"
DIGEST = "dataset_digest"
EID = "eid"
REASON = "reason"
PROMOTE_IF = "detreg.promote_if"
DECISION = "detreg.decision"
"""CHAMPION or CHALLENGER: what it became when its process was done."""
EVIDENCE_PREFIX = "detreg.evidence."
"""Followed by the version that was champion."""

# Tags of a registered model.
MOVE_PREFIX = "detreg.move."
FORMER_HISTORY = "champions"
"""The champions before the present one, as earlier releases of detreg listed them."""


@dataclass(frozen=True)
class RegistryState:
    """A registered model as it was read, and what follows from it."""

    versions: Mapping[int, ModelVersion]
    candidates: tuple[Candidate, ...]
    aliases: Mapping[str, int]
    moves: tuple[Move, ...]
    former_history: str | None
    standing: Standing

    @property
    def newest(self) -> int:
        """The highest number of a version, or 0."""
        return max(self.versions, default=0)


def has_model(name: str) -> bool:
    """Whether the registry has a model of this name."""
    try:
        MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def read_state(name: str) -> RegistryState:
    """Read a registered model; in two requests, between which it may change."""
    model = MlflowClient().get_registered_model(name)
    versions = list_versions(name)
    moves = [
        Move.from_json(text) for key, text in model.tags.items() if key.startswith(MOVE_PREFIX)
    ]
    candidates = [_read_candidate(version) for version in versions.values()]
    return RegistryState(
        versions=versions,
        candidates=tuple(candidates),
        aliases={alias: int(version) for alias, version in model.aliases.items()},
        moves=tuple(moves),
        former_history=model.tags.get(FORMER_HISTORY),
        standing=compute_standing(name, candidates, moves),
    )


def list_versions(name: str) -> dict[int, ModelVersion]:
    """Return all versions by number; deleted ones are not among them."""
    client = MlflowClient()
    quote = '"' if "'" in name else "'"
    versions: dict[int, ModelVersion] = {}
    page_token = None
    while True:
        page = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=page_token)
        versions |= {int(version.version): version for version in page}
        page_token = page.token
        if not page_token:
            return versions


def _read_candidate(version: ModelVersion) -> Candidate:
    tags = version.tags
    try:
        score = float(tags.get(SCORE, "nan"))
    except ValueError:
        score = math.nan
    return Candidate(
        version=int(version.version),
        score=score,
        dataset_digest=tags.get(DIGEST),
        run_id=tags.get(EID, ""),
        is_scored=SCORE in tags and EID in tags,
        rule=_read_rule(tags),
        evidence=_read_evidence(tags),
        decided=None if DECISION not in tags else tags[DECISION] == CHAMPION,
    )


def _read_rule(tags: Mapping[str, str]) -> PromotionRule | None:
    try:
        return parse_promotion_rule(tags[PROMOTE_IF])
    except (KeyError, ValueError):
        return None


def _read_evidence(tags: Mapping[str, str]) -> dict[int, Evidence]:
    """Return the evidence by the version that was champion; what cannot be read is left out."""
    evidence = {}
    for key, text in tags.items():
        if not key.startswith(EVIDENCE_PREFIX):
            continue
        try:
            champion = int(key.removeprefix(EVIDENCE_PREFIX))
            evidence[champion] = Evidence.from_json(text)
        except (TypeError, ValueError):  # of another tool
            continue
    return evidence


def create_version(name: str, model_uri: str, tags: Mapping[str, str]) -> None:
    """Create a version with its tags, and the registered model where it is missing."""
    # MLflow reports on stderr, which belongs to the caller.
    with contextlib.redirect_stderr(io.StringIO()):
        register_model(model_uri, name, tags=dict(tags))


def add_descriptions(name: str, version: str, registration: Registration) -> None:
    """Describe a version, and its model, unless somebody has. Raises what MLflow raises."""
    client = MlflowClient()
    of_model = registration.model_description
    if of_model and not client.get_registered_model(name).description:
        retry_on_conflict(lambda: client.update_registered_model(name, redact(of_model)))

    of_version = registration.version_description.replace(VERSION_MARK, version)
    if of_version and not client.get_model_version(name, version).description:
        retry_on_conflict(lambda: client.update_model_version(name, version, redact(of_version)))


def delete_version(name: str, version: int) -> None:
    """Delete a version; one that is gone already is fine."""
    try:
        MlflowClient().delete_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def set_alias(name: str, alias: str, version: int) -> None:
    """Let an alias name a version."""
    client = MlflowClient()
    retry_on_conflict(lambda: client.set_registered_model_alias(name, alias, str(version)))


def set_decision(name: str, version: int, is_champion: bool) -> None:
    """Tag a version with what it became when it was registered."""
    _set_tag(name, version, DECISION, CHAMPION if is_champion else CHALLENGER)


def set_reason(name: str, version: int, reason: str) -> None:
    """Tag a version with why it has its alias.

    To be called after the alias is set, so that no reason is given for what did not happen.
    """
    _set_tag(name, version, REASON, reason)


def write_evidence(name: str, version: int, champion: int, evidence: Evidence) -> None:
    """Tag a version with what came of comparing it with a champion."""
    _set_tag(name, version, f"{EVIDENCE_PREFIX}{champion}", evidence.to_json())


def _set_tag(name: str, version: int, key: str, value: str) -> None:
    client = MlflowClient()
    retry_on_conflict(lambda: client.set_model_version_tag(name, str(version), key, value))


def delete_alias(name: str, alias: str) -> None:
    """Delete an alias; one that is gone already is fine."""
    MlflowClient().delete_registered_model_alias(name, alias)


def write_move(name: str, move: Move) -> None:
    """Write a move by hand, or overwrite it where it is written already."""
    client = MlflowClient()
    key = MOVE_PREFIX + move.token
    retry_on_conflict(lambda: client.set_registered_model_tag(name, key, move.to_json()))


def plan_move(state: RegistryState, kind: MoveKind, version: int | None) -> Move:
    """Return a move that comes after everything that was read."""
    return Move(
        after=state.newest,
        sequence=max((move.sequence for move in state.moves), default=0) + 1,
        token=uuid.uuid4().hex,
        kind=kind,
        version=version,
        started_at=time.time(),
    )
