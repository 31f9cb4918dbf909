"""Starts the scoring server of a model on this machine, to try it in the browser."""

import contextlib
import importlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from mlflow.pyfunc.scoring_server import _SERVER_MODEL_PATH

from detreg.errors import UsageError
from detreg.inference.model_files import read_model
from detreg.serving.packaging import save_model
from detreg.serving.scoring_app import MODULE_OF_APP

_HOST = "127.0.0.1"
_SHUTDOWN_SECONDS = 5
"""How long requests that run may take when the server is told to stop."""


def show_model(model: str, port: int) -> None:
    """Serve a model on 127.0.0.1, and print the link of its page, until a signal ends the process.

    It is the app that `mlflow models serve` starts, in this process. The model's ONNX file is
    verified as everywhere, and served by this version of detreg, not by the one that registered it,
    whose page may be an older one or missing. Port 0 takes any that is free.

    Raises UsageError for a port that cannot be listened on, and what `read_model` raises.
    """
    with _listen(port) as listener, tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        onnx_path.write_bytes(read_model(model))
        served = Path(folder) / "served"
        save_model(onnx_path, served)

        # MLflow's module loads the model that this variable names when it is imported.
        os.environ[_SERVER_MODEL_PATH] = str(served)
        app = importlib.import_module(MODULE_OF_APP).app
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN_SECONDS
        )
        server = uvicorn.Server(config)

        # Connections wait from here on until the server takes them.
        listener.listen()
        host, used_port = listener.getsockname()
        print(f"{model}: http://{host}:{used_port}/ (Ctrl-C stops it)", flush=True)
        server.run(sockets=[listener])


@contextlib.contextmanager
def _listen(port: int) -> Iterator[socket.socket]:
    """Take a port of this machine. Raises UsageError."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(
                f"--port {port} cannot be taken ({reason}): give another one, or stop what uses it"
            ) from error
        yield listener
