"""Names of registered models. Standard library only."""

import posixpath

FORBIDDEN = "/:@"
MAX_LENGTH = 256
"""What MLflow's databases hold."""


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
