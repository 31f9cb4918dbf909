"""Passwords and tokens in texts: hidden before a text is printed, logged, stored or raised.

A text may hold URLs anywhere: a parameter, an error of a database driver, a line of a log. What is
hidden becomes `***`; everything else stays as it is. A text that is hidden already stays as it is
too, so whoever is not sure hides it again.
"""

import re
import sys
from typing import Any, TextIO, cast

HIDDEN = "***"

# Words in the name of a URL's query parameter, and whole names, whose value is a secret. Among them
# are those of URLs that Amazon, Google and Azure sign.
_SECRET_WORDS = (
    r"token|secret|passw|passphrase|pwd|signature|credential|jwt|api[-_]?key|access[-_]?key"
    r"|private[-_]?key|authorization|odbc_connect"
)
_SECRET_NAMES = r"auth|key|sas|sig"

# Each part below has a greatest length: so the time that a hostile text takes grows as its length.

_WEB_URL = re.compile(
    r"""
    (?P<start> (?: https? | ftps? ):// )
    (?:
        # What RFC 3986 calls userinfo. A name without a password is a token, as GitHub's.
        (?P<name> [^\s/?\#"<>:@]{0,2000} ) (?P<password> : [^\s/?\#"<>]{0,2000} )? @
        |
        # A password with a / that should be written %2F: what follows the colon is no port.
        (?P<odd_name> [^\s/?\#"<>:@\[]{1,2000} )
        : (?! \d* (?: [/?\#\s"'<>,;)\]] | $ ) ) [^\s"<>]{1,2000} @
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)

_OTHER_URL = re.compile(
    r"""
    (?P<start>
        (?<! [a-z0-9] ) (?! https?: | ftps?: ) [a-z] [a-z0-9+.-]{0,30} ://
        [^\s/"<>:@]{0,2000} :
    )
    # SQLAlchemy takes a password with a / too. An empty one is none.
    (?! @ ) [^\s"<>]{1,2000} @
    """,
    re.VERBOSE | re.IGNORECASE,
)

_QUERY = re.compile(
    # Not only after a URL: urllib3 prints the path and the query alone.
    rf"""
    (?P<start>
        [?&;\#] (?: [\w.-]{{0,60}} (?: {_SECRET_WORDS} ) [\w.-]{{0,60}} | {_SECRET_NAMES} ) =
    )
    [^\s&;\#"'<>)]+
    """,
    re.VERBOSE | re.IGNORECASE,
)

_CONNECTION_STRING = re.compile(
    r"""
    (?P<start> \b password= ) (?: ' (?: [^'\\] | \\. )+ ' | [^\s&;,"'<>)]+ )
    """,
    re.VERBOSE,
)

_HTTP_HEADER = re.compile(
    r"""
    (?P<start> \b Authorization ["']? \s* [:=] \s* ["']? (?: Basic | Bearer ) \s+ ) [^\s"',]+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text with `***` in place of each password and token."""
    if "://" in text:
        text = _WEB_URL.sub(_hide_web_login, text)
        text = _OTHER_URL.sub(rf"\g<start>{HIDDEN}@", text)
    for pattern in (_QUERY, _CONNECTION_STRING, _HTTP_HEADER):
        text = pattern.sub(rf"\g<start>{HIDDEN}", text)
    return text


def _hide_web_login(found: re.Match[str]) -> str:
    start = found["start"]
    if found["odd_name"] is not None:
        return f"{start}{found['odd_name']}:{HIDDEN}@"
    if found["password"] in (None, ":"):
        return f"{start}{HIDDEN}@"
    return f"{start}{found['name']}:{HIDDEN}@"


def has_credential(text: str) -> bool:
    """Whether the text holds a password or a token."""
    return redact(text) != text


def refuse_credential(text: str) -> None:
    """Raise ValueError where a parameter's value holds a password or a token.

    MLflow logs parameters, shells keep them in their history, and every user of the machine sees
    them in the list of processes. The message completes "NAME must be ...".
    """
    if has_credential(text):
        raise ValueError(
            f"free of passwords and tokens, got {redact(text)!r}: others may have seen it: change "
            "it, and give the new one by DETREG_STORAGE, ~/.pgpass or ~/.netrc "
            "(docs/credentials.md)"
        )


class RedactedStream:
    """A text stream that hides passwords and tokens in what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; a URL must not be split over two calls."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write texts one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the stream."""
        return getattr(self._stream, name)


def redact_output() -> None:
    """Hide passwords and tokens in all that this process prints from now on.

    Also in what libraries print: MLflow the URL of each run that ends, Python the traceback of an
    error. To be called before libraries are imported, which may keep the streams.
    """
    sys.stdout = cast(TextIO, RedactedStream(sys.stdout))
    sys.stderr = cast(TextIO, RedactedStream(sys.stderr))
