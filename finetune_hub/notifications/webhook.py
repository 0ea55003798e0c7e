"""Calling an address that a user gave: over HTTPS, at public addresses alone, and never where a redirect points.

The address is looked up and checked by `machine.public_addresses`. FINETUNE_HUB_PRIVATE_WEBHOOKS=1 allows plain HTTP
and private addresses, for a chat server of one's own network.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
from django.conf import settings

from finetune_hub.machine.public_addresses import NotPublic, look_up
from finetune_hub.spec.refusal import Refusal

TIMEOUT_SECONDS = 10.0


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
    """The address behind the name, where the service may call it.

    Raises:
        NotDelivered: it is not known, or inside.
    """
    try:
        return str(look_up(host, allow_private=settings.PRIVATE_WEBHOOKS))
    except NotPublic as error:
        raise NotDelivered(f"{host} is an address inside this network.") from error
    except OSError as error:
        raise NotDelivered(f"The name {host} is not known.") from error
