"""MLflow's exceptions, translated to detreg's, and writes that collide with another process's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar

from detreg.environment import set_mlflow_defaults
from detreg.errors import (
    DetregError,
    NotFoundError,
    UnreachableError,
    UsageError,
    summarize_error,
)
from detreg.redaction import redact

set_mlflow_defaults()  # MLflow reads some of them when it is imported

import mlflow  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException  # noqa: E402
from requests.exceptions import RequestException  # noqa: E402

_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND"}
# MLflow reports an alias, a version or a run id that cannot exist as an invalid value, not as a
# missing resource.
_MISSING_TEXTS = ("not found", "does not exist", "unable to find")

MAX_WRITE_ATTEMPTS = 5
# A tracking server passes on its database's error as a text: those of SQLite, PostgreSQL and MySQL.
_CONFLICT_TEXTS = (
    "IntegrityError",
    "UniqueViolation",
    "UNIQUE constraint failed",
    "Duplicate entry",
    "DeadlockDetected",
    "Deadlock found",
    "SerializationFailure",
    "Model Version creation error",  # MLflow has collided three times
)

# Of the answers 401 and 403.
_LOGIN_CODES = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}

# What the same request would meet again. A server's other answers may change: a database that is
# full or locked, a proxy that answers for a server which is away, a token that has expired.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
}

T = TypeVar("T")


@contextmanager
def translate_mlflow_errors(missing: str) -> Iterator[None]:
    """Turn what MLflow raises inside the block into errors that a user can act on.

    Raises NotFoundError(missing) where MLflow does not find what it was asked for, and
    UnreachableError where its server or database does not answer, or wants another login, and
    UsageError for a database where SQLAlchemy is not installed. Everything else passes through.
    """
    try:
        yield
    except DetregError:
        # It says already what is to be done, whatever has caused it.
        raise
    except Exception as error:
        if _is_unsupported_database(error):
            raise UsageError(_describe_missing_sqlalchemy()) from error
        if is_unreachable(error):
            raise UnreachableError(_describe_unreachable(error)) from error
        if isinstance(error, MlflowException) and error.error_code in _LOGIN_CODES:
            raise UnreachableError(_describe_refused_login(error)) from error
        if isinstance(error, MlflowException) and _is_missing(error.error_code, error.message):
            raise NotFoundError(missing) from error
        raise


def retry_on_conflict(write: Callable[[], T]) -> T:
    """Call `write` and return its result; call it again where another process wrote the same row.

    MLflow looks whether a row exists and inserts it in two steps. Two processes that log the same
    dataset at once both find nothing, and the database refuses the second one's row. `write` must
    be harmless when it is repeated. Raises what `write` raises otherwise.
    """
    for _ in range(MAX_WRITE_ATTEMPTS - 1):
        try:
            return write()
        except MlflowException as error:
            if not _is_conflict(error):
                raise
    return write()


def is_refusal(error: Exception) -> bool:
    """Whether a write that has failed with `error` would fail again, however often it is tried."""
    if is_unreachable(error):
        return False
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS and not _is_conflict(error)
    return isinstance(error, TypeError | ValueError | LookupError | AttributeError)


def _is_conflict(error: MlflowException) -> bool:
    message = str(error)
    return any(text in message for text in _CONFLICT_TEXTS)


def _is_missing(code: str, message: str) -> bool:
    if code in _MISSING:
        return True
    is_named_missing = any(text in message.lower() for text in _MISSING_TEXTS)
    return code == "INVALID_PARAMETER_VALUE" and is_named_missing


def is_unreachable(error: BaseException) -> bool:
    """Whether `error` comes of a server or database that does not answer, or cannot write."""
    # MLflow raises an exception of its own, so the one that says it stands further down the chain.
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, RequestException) or _is_database_error(link):
            return True
        if getattr(link, "error_code", "") == "TEMPORARILY_UNAVAILABLE":
            return True
        link = link.__cause__ or link.__context__
    return False


def _is_database_error(error: BaseException) -> bool:
    """Whether `error` is a database's OperationalError.

    It is known by its name, since an install without what trains has no SQLAlchemy.
    """
    return any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def _is_unsupported_database(error: Exception) -> bool:
    """Whether MLflow keeps its records in a database, for which the light install lacks a part."""
    is_unsupported = isinstance(error, UnsupportedModelRegistryStoreURIException)
    return is_unsupported and find_spec("sqlalchemy") is None


def _describe_missing_sqlalchemy() -> str:
    return (
        f"MLflow's store {redact(mlflow.get_tracking_uri())} takes the full install, pip install "
        "'detreg[train]'; without it, set MLFLOW_TRACKING_URI to an MLflow server, or name an "
        ".onnx file (detreg export)"
    )


def _describe_unreachable(error: Exception) -> str:
    return (
        f"MLflow at {mlflow.get_tracking_uri()} does not answer ({summarize_error(error)}): "
        "start it, or set MLFLOW_TRACKING_URI to one that does"
    )


def _describe_refused_login(error: MlflowException) -> str:
    return (
        f"MLflow at {mlflow.get_tracking_uri()} refuses the login ({summarize_error(error)}): set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    )
