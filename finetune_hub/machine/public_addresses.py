"""Which addresses users may make the hub call: only those of the public internet, not of the hub's own network.

A name is resolved once, and the caller connects to exactly the address that was checked, which prevents DNS rebinding.
"""

from __future__ import annotations

import ipaddress
import socket

NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotPublic(Exception):
    """The host name resolves to an address on a private network."""


def look_up(host: str, *, allow_private: bool) -> Address:
    """Return the host name's first address.

    Raises:
        NotPublic: one of its addresses is not public, and `allow_private` is false.
        OSError: the host name is unknown.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not allow_private and not all(map(is_public, addresses)):
        raise NotPublic(f"{host} is on a private network.")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Return whether it is on the public internet; for an IPv6 address that embeds an IPv4 one, the latter counts."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
