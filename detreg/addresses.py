"""Which addresses of the network a URL may lead to: public ones, unless the user allows others.

A URL may come from a stranger: from a tutorial, or as the redirect of a server. On the machine of
whoever follows it, it could reach services that are open to that machine only, such as a database
or the metadata of a cloud. `connect_checked` therefore connects to the very address that it has
checked: a second answer of the name server cannot differ.
"""

import ipaddress
import os
import socket

from detreg.errors import RefusedError

ALLOW_VARIABLE = "DETREG_ALLOW_PRIVATE_URLS"
"""Set to 1, this environment variable allows every address, for servers in one's own network."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses by which a network of IPv6 alone reaches those of IPv4, in their last 32 bits."""


def connect_checked(host: str, port: int, timeout: float) -> socket.socket:
    """Return a TCP connection to `host`, whose addresses are all public.

    timeout: of each attempt to connect, in seconds; the connection keeps it.

    Raises RefusedError, and OSError where the name is unknown or nobody answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        check_address(host, str(address[0]))

    failure = OSError(f"the name {host} has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def check_address(host: str, address: str) -> None:
    """Raise RefusedError unless `address`, an address of `host`, is a public one."""
    if _are_private_addresses_allowed() or is_public(ipaddress.ip_address(address)):
        return
    raise RefusedError(
        f"{host} has the address {address}, which is not a public one: a URL must not reach what "
        f"only this machine or its network may see; if it may, set {ALLOW_VARIABLE}=1"
    )


def check_stated_address(host: str) -> None:
    """Check a host that is written as an address or as localhost; other names are not looked up.

    For URLs that a proxy opens, which looks names up by itself. Raises RefusedError.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        check_address(host, address)
    except ValueError:  # a name
        return


def _are_private_addresses_allowed() -> bool:
    return os.environ.get(ALLOW_VARIABLE) == "1"


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to one machine of the public internet."""
    inner = _find_inner_address(address)
    if inner is not None:
        return is_public(inner)
    # Python counts a multicast address as global.
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _find_inner_address(address: IPAddress) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, None where it stands for none."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour
