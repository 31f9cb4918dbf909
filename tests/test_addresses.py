"""Which addresses a URL may lead to."""

import ipaddress
import socket

import pytest

from detreg.addresses import ALLOW_VARIABLE, check_stated_address, connect_checked, is_public
from detreg.errors import RefusedError

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "140.82.112.3", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


def test_only_addresses_of_the_public_internet_are_public() -> None:
    assert [text for text in PRIVATE if is_public(ipaddress.ip_address(text))] == []
    assert [text for text in PUBLIC if not is_public(ipaddress.ip_address(text))] == []


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:10.0.0.1"])
def test_name_with_one_private_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(RefusedError, match=f"example.org has the address {address}") as caught:
        connect_checked("example.org", 80, timeout=1)
    assert caught.value.exit_code == 77


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "localhost"])
def test_other_spellings_of_an_address_are_refused(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    with pytest.raises(RefusedError):
        connect_checked(host, 9, timeout=1)


def test_proxy_is_asked_for_names_and_not_for_private_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    check_stated_address("example.org")
    check_stated_address("8.8.8.8")
    for host in ("localhost", "169.254.169.254", "::1"):
        with pytest.raises(RefusedError):
            check_stated_address(host)
    monkeypatch.setenv(ALLOW_VARIABLE, "1")
    check_stated_address("localhost")
