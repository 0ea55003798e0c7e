"""Calling an address that a user gave: over HTTPS, at public addresses alone, and never where a redirect points.

A name is looked up once, and the very address that was checked is the one that is called: a name server that answers
otherwise the second time gains nothing. FINETUNE_HUB_PRIVATE_WEBHOOKS=1 allows plain HTTP and private addresses, for a
chat server of one's own network.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from finetune_hub.spec.refusal import Refusal

TIMEOUT_SECONDS = 10.0
HTTPS_PORT, HTTP_PORT = 443, 80


class NotDelivered(Exception):
    """The message did not get through; the text says why, without the address."""


def check_address(url: str) -> None:
    """
    Raises:
        Refusal: `invalid_webhook`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    schemes = ("https", "http") if settings.PRIVATE_WEBHOOKS else ("https",)
    if not host or parts.scheme not in schemes or parts.username or not url.isascii() or not url.isprintable():
        raise Refusal(
            "invalid_webhook",
            "This is no address of a chat room's webhook.",
            f"It begins with {' or '.join(f'{scheme}://' for scheme in schemes)}; copy it from the room's settings.",
            field="url",
        )
    try:
        public_address(host)
    except NotDelivered as error:
        remedy = "Give the address that the chat service shows; inside addresses need FINETUNE_HUB_PRIVATE_WEBHOOKS=1."
        raise Refusal("invalid_webhook", f"{error}", remedy, field="url") from error


def post_text(url: str, text: str) -> None:
    """Send `{"text": …}`, as Slack, Mattermost, Rocket.Chat and Discord (its address with `/slack`) read it.

    Raises:
        NotDelivered: nobody answered, or with anything but 2xx.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    address = public_address(host)
    target = httpx.URL(url).copy_with(host=address)
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client:
            request = client.build_request(
                "POST",
                target,
                json={"text": text},
                headers={"Host": parts.netloc},
                extensions={"sni_hostname": host},
            )
            response = client.send(request, stream=True)  # Its body is nobody's business.
            response.close()
    except httpx.HTTPError as error:
        raise NotDelivered(f"{host} could not be reached: {type(error).__name__}.") from error
    if not response.is_success:
        raise NotDelivered(f"{host} answered {response.status_code}.")


def public_address(host: str) -> str:
    """The address behind the name, when all it stands for are ones that the service may call.

    Raises:
        NotDelivered: it is not known, or inside.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise NotDelivered(f"The name {host} is not known.") from error
    addresses = sorted(found)
    if not settings.PRIVATE_WEBHOOKS and not all(is_public(address) for address in addresses):
        raise NotDelivered(f"{host} is an address inside this network.")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether the address belongs to the internet at large; IPv4 in IPv6's clothes is looked at as IPv4."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast
