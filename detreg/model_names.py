"""Names in MLflow: of registered models, and of what is called after a dataset."""

import posixpath
import re
import unicodedata

FORBIDDEN = "/:@"
MAX_LENGTH = 256
"""What MLflow's databases hold."""
MAX_DATASET_LENGTH = 100
"""Of a dataset's name, which stands behind a template's."""


def make_model_name(template: str, dataset: str) -> str:
    """Return the name under which a template that was trained on a dataset is registered."""
    words = simplify_name(dataset)
    return f"{template}-{words}" if words else template


def simplify_name(dataset: str) -> str:
    """Return the name of a folder or an archive as MLflow takes it, and a shell without quotes.

    Letters and digits of any script are kept, and `.` and `_`; whatever lies between them becomes
    one `-`. The result is empty where nothing is kept.
    """
    # One form, whether a file system stores an accent with its letter or behind it.
    composed = unicodedata.normalize("NFC", dataset)
    return re.sub(r"[^\w.]+", "-", composed)[:MAX_DATASET_LENGTH].strip("-._")


def find_name_problem(name: str) -> str | None:
    """Return why a registered model cannot have this name, or None where it can.

    MLflow takes the name as part of a path; `models:/NAME@champion` could not hold an @; and
    MLflow's search takes it between quotes of either kind.
    """
    if not name.strip() or any(mark in name for mark in FORBIDDEN):
        rule = "must not be empty nor contain '/', ':' or '@'"
    elif posixpath.normpath(name) != name or name in (".", ".."):
        rule = "must not be a relative path"
    elif len(name) > MAX_LENGTH:
        rule = f"must have at most {MAX_LENGTH} characters"
    elif "'" in name and '"' in name:
        rule = "must not contain quotes of both kinds"
    else:
        return None
    return f"registered_model_name {rule}, got {name[:200]!r}"
