"""Moves of the alias champion by something else than registry.py, recorded as moves by hand.

Such an alias was moved on MLflow's page or by a script, or is what an earlier release of detreg has
left. It is the truth: nothing that is computed from the versions may undo it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace

from mlflow.entities.model_registry import ModelVersion

from detreg.tracking.registered_model import (
    CHAMPION,
    EID,
    REASON,
    RegistryState,
    list_versions,
    plan_move,
    read_state,
    write_move,
)
from detreg.tracking.standing import MoveKind

MAX_WRITING_SECONDS = 86400.0
"""Age after which a process that has not settled what it began counts as dead."""
MAX_EARLIER_CHAMPIONS = 200
"""Champions that a record lists: a tag of a registered model holds 5000 characters."""


def record_foreign_move(name: str) -> None:
    """Record the champion of something else than this module, so that it is not undone.

    That is an alias that was moved on MLflow's page, and what an earlier release of detreg has
    left.
    """
    state = read_state(name)
    while _has_foreign_champion(state):
        # What is read in several requests is one state if nothing changed around them.
        versions = list_versions(name)
        state = read_state(name)
        if not _has_same_versions(versions, state.versions):
            continue
        if not _has_foreign_champion(state):
            return

        move = plan_move(state, MoveKind.RESET, state.aliases.get(CHAMPION))
        earlier = _list_earlier_champions(state)[-MAX_EARLIER_CHAMPIONS:]
        write_move(name, replace(move, earlier=earlier, is_settled=True))
        return


def _has_foreign_champion(state: RegistryState) -> bool:
    """Whether the champion is not the one that follows from versions and moves.

    It is not foreign while a process has not settled what it began: that may set the alias late.
    """
    if state.former_history is not None and not state.moves:
        return True

    champion = state.aliases.get(CHAMPION)
    if champion is None or champion == state.standing.champion:
        return False

    has_writer = any(is_being_registered(version) for version in state.versions.values())
    has_mover = any(not move.is_settled and _is_young(move.started_at) for move in state.moves)
    return not has_writer and not has_mover


def is_being_registered(version: ModelVersion) -> bool:
    """Whether a process may still be registering a version."""
    is_of_detreg = EID in version.tags
    has_settled = REASON in version.tags
    return is_of_detreg and not has_settled and _is_young(version.creation_timestamp / 1000)


def _is_young(started_at: float) -> bool:
    return time.time() - started_at < MAX_WRITING_SECONDS


def _has_same_versions(
    before: Mapping[int, ModelVersion], after: Mapping[int, ModelVersion]
) -> bool:
    tags_before = {number: version.tags for number, version in before.items()}
    tags_after = {number: version.tags for number, version in after.items()}
    return tags_before == tags_after


def _list_earlier_champions(state: RegistryState) -> tuple[int, ...]:
    """Return the champions before a foreign one, oldest first."""
    champion = state.aliases.get(CHAMPION)
    if state.former_history is not None and not state.moves:
        versions = [int(version) for version in json.loads(state.former_history)]
        # A crash between two writes has left the champion at the end.
        while versions and versions[-1] == champion:
            versions.pop()
        return tuple(versions)

    replaced = state.standing.champion
    return state.standing.earlier if replaced is None else (*state.standing.earlier, replaced)
