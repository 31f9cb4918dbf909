"""What the runs of MLflow are called where nobody has named them."""

import os
import re

from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

from detreg.errors import make_printable, shorten
from detreg.tracking.runs import get_run

_GENERATED = re.compile(r"([a-z]+)-([a-z]+)-\d+")
_MAX_LENGTH = 100


def choose_run_name(given: str | None, default: str) -> str | None:
    """Return the name of the next run: the given one, else the default.

    None keeps the name of the run that `mlflow run` has made, where its user has chosen that one.
    """
    if given is not None:
        return given

    # mlflow.start_run removes the variable, so it is there only before that.
    eid = os.environ.get("MLFLOW_RUN_ID")
    if eid is not None and not _is_generated(get_run(eid).info.run_name):
        return None
    return make_printable(shorten(default, _MAX_LENGTH))


def _is_generated(name: str | None) -> bool:
    """Whether MLflow has drawn the name from its lists, such as `bold-fish-7`."""
    if not name:
        return True
    parts = _GENERATED.fullmatch(name)
    if parts is None:
        return False
    return parts[1] in _GENERATOR_PREDICATES and parts[2] in _GENERATOR_NOUNS
