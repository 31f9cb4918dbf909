"""What a client of the served model reads when its request is wrong: a 4xx with one line, and no stack trace."""

import logging
import sys
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

_LOG = logging.getLogger(__name__)
_SERVER = "mlflow.pyfunc.scoring_server"
_EXAMPLE = 'send {"dataframe_records": [{"image": "<base64 of a JPEG or PNG file>"}]}'


class BadRequest(MlflowException):
    """A request that cannot be answered, with the reason in one line; HTTP status 400."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error_code=BAD_REQUEST)


def answer_in_one_line() -> None:
    """Makes MLflow's scoring server, if this process is one, answer every error in one line.

    MLflow 3.17 puts the whole input and often a stack trace into its answers, and gives models no hook to change them. Its request
    handler looks `invocations` up each time it is called, so that is what is wrapped (mlflow/pyfunc/scoring_server/__init__.py).
    """
    if f"{_SERVER}.app" not in sys.modules:
        return
    server: Any = sys.modules[_SERVER]
    invocations = server.invocations

    @wraps(invocations)
    def one_line_invocations(data: bytes, content_type: str | None, *rest: Any) -> Any:
        try:
            return invocations(data, content_type or "", *rest)
        except Exception as error:
            raise one_line(error) from None

    server.invocations = one_line_invocations


def one_line(error: Exception) -> MlflowException:
    """The error as a client should read it; a fault that is not the client's is logged with its stack trace, and told as such."""
    if isinstance(error, BadRequest):
        # MLflow has put the input before the reason in `message`; the argument is as it was raised.
        return BadRequest(str(error))
    if not isinstance(error, MlflowException) or _is_fault_of_the_server(error):
        _LOG.error(
            "The request failed: %s",
            getattr(error, "json_kwargs", {}).get("stack_trace", error),
            exc_info=error,
        )
        return MlflowException(
            "The server failed on this request; its log says why", error_code=INTERNAL_ERROR
        )
    return BadRequest(f"{_reason(error)}: {_EXAMPLE}")


def _is_fault_of_the_server(error: MlflowException) -> bool:
    # MLflow answers 400 where the model itself fails.
    return error.error_code == "INTERNAL_ERROR" or str(error).startswith(
        "Encountered an unexpected error while evaluating the model"
    )


def _reason(error: MlflowException) -> str:
    if error.error_class == "SCHEMA_ENFORCEMENT_FAILED":
        return "The input is no table with a column `image`"
    line = (str(error).splitlines() or [""])[0]
    return line.partition(" IMPORTANT:")[0].rstrip(".")[:300]
