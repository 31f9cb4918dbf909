"""What to say where `pip install detreg` is not enough: training needs the extra `train`."""

import importlib.util

from detreg.errors import UsageError


def explain_missing_module(error: ModuleNotFoundError) -> UsageError | None:
    """Return how to install what a command lacks, or None where detreg itself lacks a module."""
    package = (error.name or "").split(".")[0]
    if package in ("", "detreg"):
        return None
    return UsageError(
        f"this needs {package}, which is not installed: it comes with the full install, "
        "pip install 'detreg[train]'"
    )


def require_full_install(what: str) -> None:
    """Raise UsageError where the packages that train are not installed; imports none of them."""
    if importlib.util.find_spec("mmdet") is None:
        raise UsageError(f"{what} needs the full install: pip install 'detreg[train]'")
