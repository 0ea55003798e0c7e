"""Calling a user's webhook: over HTTPS, only at public addresses, and without following redirects.

The address is resolved and checked by `machine.public_addresses`. FINETUNE_HUB_PRIVATE_WEBHOOKS=1 allows plain HTTP
and private addresses, for a chat server in your own network.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx
from django.conf import settings

from finetune_hub.machine.public_addresses import NotPublic, look_up
from finetune_hub.spec.refusal import Refusal

TIMEOUT_SECONDS = 10.0


class NotDelivered(Exception):
    """The message was not delivered; the text says why, without the URL."""


def check_address(url: str) -> None:
    """Check a webhook's URL.

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
            "This is not the URL of a chat webhook.",
            f"Copy it from the room's settings; it starts with {' or '.join(f'{scheme}://' for scheme in schemes)}.",
            field="url",
        )
    try:
        public_address(host)
    except NotDelivered as error:
        remedy = "Use the URL shown by the chat service. Private addresses need FINETUNE_HUB_PRIVATE_WEBHOOKS=1."
        raise Refusal("invalid_webhook", f"{error}", remedy, field="url") from error


def post_text(url: str, text: str) -> None:
    """Send `{"text": …}`, which Slack, Mattermost, Rocket.Chat and Discord (URL with `/slack`) accept.

    Raises:
        NotDelivered: there was no response, or not a 2xx one.
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
            response = client.send(request, stream=True)  # The body is not needed.
            response.close()
    except httpx.HTTPError as error:
        raise NotDelivered(f"{host} could not be reached: {type(error).__name__}.") from error
    if not response.is_success:
        raise NotDelivered(f"{host} responded with {response.status_code}.")


def public_address(host: str) -> str:
    """Return the host's address, if the service may call it.

    Raises:
        NotDelivered: it is unknown or not public.
    """
    try:
        return str(look_up(host, allow_private=settings.PRIVATE_WEBHOOKS))
    except NotPublic as error:
        raise NotDelivered(f"{host} is on a private network.") from error
    except OSError as error:
        raise NotDelivered(f"The host name {host} could not be resolved.") from error
