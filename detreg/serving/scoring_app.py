"""Puts the layer in front of MLflow's scoring server, which this process is."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import fastapi
from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from starlette.middleware.cors import CORSMiddleware

from detreg.serving.limits import Limits
from detreg.serving.middleware import Answer, App, InvocationLayer, Receive, Scope, Send
from detreg.serving.pages import Page

MODULE_OF_APP = "mlflow.pyfunc.scoring_server.app"
"""Which makes the app when it is imported, and loads the model before that."""


def _answer_origins(app: App, origins: Sequence[str]) -> App:
    """Return the app with the headers of CORS for these origins, and as it is without any."""
    if not origins:
        return app
    return CORSMiddleware(app, allow_origins=origins, allow_methods=("GET", "POST"))


def is_scoring_server() -> bool:
    """Tell whether this process is one that `mlflow models serve` started."""
    return MODULE_OF_APP in sys.modules


def install_layer(
    answer: Answer, limits: Limits, pages: Mapping[str, Page], origins: Sequence[str]
) -> None:
    """Have MLflow's scoring server, which this process is, answer through a layer.

    `origins` are those whose pages may read the answers.

    MLflow 3.17 gives models no hook into its app. It loads the model, and then makes the app with
    the class that the module `fastapi` has at that time (mlflow/pyfunc/scoring_server/__init__.py,
    `init`), so that class is replaced by a child, for the one app that is made.
    """
    layer = InvocationLayer(answer, limits, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get(), pages)
    original = fastapi.FastAPI

    class ScoringApp(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            fastapi.FastAPI = original  # type: ignore[misc]
            # FastAPI's pages load scripts from elsewhere.
            super().__init__(*args, **kwargs, docs_url=None, redoc_url=None)
            self._entry = _answer_origins(partial(layer, super().__call__), origins)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self._entry(scope, receive, send)

    fastapi.FastAPI = ScoringApp  # type: ignore[misc]
