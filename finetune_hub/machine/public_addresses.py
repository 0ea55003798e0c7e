"""Which addresses users may have the hub call: those of the public internet, none of the network it stands in.

A name is looked up once, and the caller connects to the very address that was looked at: a name server that answers
otherwise a moment later gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket

NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotPublic(Exception):
    """The name stands for an address inside a network."""


def look_up(host: str, *, allow_private: bool) -> Address:
    """The first address behind the name.

    Raises:
        NotPublic: one of its addresses is not public, and `allow_private` is false.
        OSError: the name is not known.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not allow_private and not all(map(is_public, addresses)):
        raise NotPublic(f"{host} is an address inside a network.")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether it belongs to the public internet, also as the IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast
