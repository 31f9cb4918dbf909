"""What a client of the served model reads when its request is wrong: one line, no stack trace."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from typing import Protocol, cast

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

_LOG = logging.getLogger(__name__)
_SERVER = "mlflow.pyfunc.scoring_server"
_EXAMPLE = 'send {"dataframe_records": [{"image": "<base64 of a JPEG or PNG file>"}]}'
_MAX_REASON_LENGTH = 300


class BadRequest(MlflowException):
    """A request that cannot be answered, with the reason in one line; HTTP status 400."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error_code=BAD_REQUEST)


class _ScoringServer(Protocol):
    """The part of MLflow's module that is replaced."""

    invocations: Callable[..., object]


def install_one_line_errors() -> None:
    """Make MLflow's scoring server, if this process is one, answer every error in one line.

    MLflow 3.17 puts the whole input and often a stack trace into its answers, and gives models no
    hook to change them. Its request handler looks `invocations` up each time it is called, so that
    function is wrapped (mlflow/pyfunc/scoring_server/__init__.py).
    """
    if f"{_SERVER}.app" not in sys.modules:
        return

    server = cast(_ScoringServer, sys.modules[_SERVER])
    invocations = server.invocations

    @wraps(invocations)
    def invoke(data: bytes, content_type: str | None, *rest: object) -> object:
        try:
            return invocations(data, content_type or "", *rest)
        except Exception as error:
            raise shorten_error(error) from None

    server.invocations = invoke


def shorten_error(error: Exception) -> MlflowException:
    """Return the error as a client should read it.

    A failure of the server itself is logged with its stack trace, and the client reads only that
    there was one.
    """
    if isinstance(error, BadRequest):
        # MLflow has put the input before the reason in `message`; str() is the reason as raised.
        return BadRequest(str(error))

    if not isinstance(error, MlflowException) or _is_server_failure(error):
        # MLflow keeps the stack trace of a failed model apart, in json_kwargs.
        details = getattr(error, "json_kwargs", {}).get("stack_trace", error)
        _LOG.error("The request failed: %s", details, exc_info=error)
        return MlflowException(
            "The server failed on this request; its log says why", error_code=INTERNAL_ERROR
        )

    return BadRequest(f"{_get_reason(error)}: {_EXAMPLE}")


def _is_server_failure(error: MlflowException) -> bool:
    # MLflow answers 400 where the model itself fails, so its message has to tell the two apart.
    model_failed = str(error).startswith(
        "Encountered an unexpected error while evaluating the model"
    )
    return error.error_code == "INTERNAL_ERROR" or model_failed


def _get_reason(error: MlflowException) -> str:
    """Return the first line of MLflow's message, without the advice that follows it."""
    if error.error_class == "SCHEMA_ENFORCEMENT_FAILED":
        return "The input must be a table with a column `image`"

    lines = str(error).splitlines()
    first_line = lines[0] if lines else ""
    reason, _, _ = first_line.partition(" IMPORTANT:")
    return reason.rstrip(".")[:_MAX_REASON_LENGTH]
