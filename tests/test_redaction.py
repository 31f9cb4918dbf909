"""Passwords and tokens are found in any text, and nothing else is taken for one."""

import contextlib
import io
import subprocess
import sys
import time

import pytest

from detreg import errors
from detreg.params import Param
from detreg.redaction import RedactedStream, has_credential, redact, refuse_credential

# `can` and `ary` are the two halves of a password.
REDACTED = [
    ("http://me:canary@host:5000/x", "http://me:***@host:5000/x"),
    ("HTTP://me:canary@host", "HTTP://me:***@host"),
    ("https://me:can%40ary@host", "https://me:***@host"),
    ("https://me:can@ary@host/x", "https://me:***@host/x"),
    ("https://me:can/ary@host/x", "https://me:***@host/x"),
    ("https://me:can#ary@host/x", "https://me:***@host/x"),
    ("https://canary@github.com/a", "https://***@github.com/a"),
    ("https://canary:@github.com/a", "https://***@github.com/a"),
    ("postgresql://me:canary@host/db", "postgresql://me:***@host/db"),
    (
        "postgresql+psycopg://me:can/ary@host:5432/db?x=1",
        "postgresql+psycopg://me:***@host:5432/db?x=1",
    ),
    ("postgresql://me:can@ary@host", "postgresql://me:***@host"),
    ("postgresql://me:can?ary@host/db", "postgresql://me:***@host/db"),
    ("postgresql://me:12/canary@host/db", "postgresql://me:***@host/db"),
    ("postgresql://host/db?password=canary&user=me", "postgresql://host/db?password=***&user=me"),
    ("redis://:canary@host", "redis://:***@host"),
    ("s3://AKIA:canary@bucket/x", "s3://AKIA:***@bucket/x"),
    ("https://host/a?sig=canary&se=1", "https://host/a?sig=***&se=1"),
    ("https://host/a?x=1&amp;access_key=canary", "https://host/a?x=1&amp;access_key=***"),
    ("https://host/a#access_token=canary", "https://host/a#access_token=***"),
    (
        "exceeded with url: /b/k?X-Amz-Date=1&X-Amz-Credential=canary%2F&X-Amz-Signature=canary (",
        "exceeded with url: /b/k?X-Amz-Date=1&X-Amz-Credential=***&X-Amz-Signature=*** (",
    ),
    ("host=db password=canary user=me", "host=db password=*** user=me"),
    (r"host=db password='can \'ary' user=me", "host=db password=*** user=me"),
    ("{'Authorization': 'Basic canary=='}", "{'Authorization': 'Basic ***'}"),
    ("authorization: bearer canary", "authorization: bearer ***"),
    ("got 'mysql://me:canary@host/db' (x)", "got 'mysql://me:***@host/db' (x)"),
    ('["http://me:canary@host", "b@c"]', '["http://me:***@host", "b@c"]'),
    ('<a href="http://me:canary@host/x">b@c</a>', '<a href="http://me:***@host/x">b@c</a>'),
    ("http://a:canary@b http://c:canary@d", "http://a:***@b http://c:***@d"),
]
UNCHANGED = [
    "http://host:5000/name@champion",
    "https://host/pkg@1.2/x.pth#sha256=abc",
    "https://host/x?page=2&q=a",
    "http://[::1]:5000/x@y",
    "models:/yolox@champion",
    "postgresql://me@host/db",
    "postgresql://postgres:@/optuna?host=/tmp/x",  # an empty password is none
    "postgresql://USER@HOST/DATABASE",
    "sqlite:////home/me@host/x.db",
    "file:///a@b",
    "ssh://git@host/x",
    "(http://host:80) a@b",
    "password=",
    "Basic authentication, with a password",
]


@pytest.mark.parametrize(("text", "expected"), REDACTED)
def test_password_or_token_is_hidden(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected
    assert has_credential(text)
    assert not has_credential(expected)


@pytest.mark.parametrize("text", UNCHANGED)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    refuse_credential(text)


@pytest.mark.soak
@pytest.mark.parametrize(
    "part",
    ["a://b:", "http://a:b", "a-", "token", "?token", "password='", "Authorization: Basic ", "@"],
)
@pytest.mark.parametrize("end", ["", "://", "@", "="])
def test_hostile_text_costs_time_in_proportion_to_its_length(part: str, end: str) -> None:
    def measure(count: int) -> float:
        text = "?" + part * count + end
        start = time.process_time()
        redact(text)
        return time.process_time() - start

    # Eight times the text would cost 64 times the time, were it quadratic.
    assert measure(16_000) < 30 * max(measure(2_000), 0.002)


def test_errors_hide_what_they_quote() -> None:
    error = errors.UnreachableError(["http://me:canary@host is away", "see https://canary@host"])
    assert str(error) == "http://me:***@host is away\nsee https://***@host"
    assert errors.describe_failure(error) == "http://me:***@host is away; see https://***@host"

    other = OSError("postgresql://me:canary@host " + "x" * 400)
    assert "canary" not in errors.describe_failure(other)
    # Hidden first and cut then: a cut URL would not be recognized any more.
    at_the_cut = OSError("x" * 280 + " http://me:canary@host/a")
    assert "can" not in errors.summarize_error(at_the_cut)


def test_parameter_must_be_free_of_passwords() -> None:
    param = Param("text", None, "help", optional=True)
    with pytest.raises(ValueError, match=r"free of passwords and tokens, got 'http://me:\*\*\*@h'"):
        param.parse("http://me:canary@h")
    assert param.parse("postgresql://me@host/db") == "postgresql://me@host/db"


def test_stream_hides_what_is_written() -> None:
    below = io.StringIO()
    stream = RedactedStream(below)
    with contextlib.redirect_stdout(stream):
        print("in", "http://me:canary@host", "twice", end="\r", flush=True)
    stream.writelines(["http://canary@host"])
    assert below.getvalue() == "in http://me:***@host twice\rhttp://***@host"
    assert not stream.isatty()


def test_traceback_of_a_process_hides_passwords() -> None:
    code = (
        "from detreg.redaction import redact_output; redact_output();"
        "raise ValueError('http://me:canary@host')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ValueError: http://me:***@host"
    assert "canary" not in done.stdout.replace(code, "")
