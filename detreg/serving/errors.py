"""What a client of the served model reads when its request is not answered: one line."""

from http import HTTPStatus

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST


class BadRequest(MlflowException):
    """A request that cannot be answered, with the reason in one line.

    `status` is the HTTP status that detreg's layer answers with. Where the model runs without it,
    MLflow answers 400.
    """

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason, error_code=BAD_REQUEST)
        self.status = status
