"""How often somebody may try to sign in: so many wrong passwords for a name from an address, then a pause.

Counted by name and address together. By name alone, anybody could lock the rightful user out; by address alone, one
person could lock out an office. All web processes share the counts through Redis; while that is away, each process
counts for itself. Only numbers are kept there, and nothing is unpickled: a worker on another machine reaches Redis too.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from functools import lru_cache

import redis
from django.conf import settings
from django.core.cache import cache

from finetune_hub.spec.refusal import Refusal

log = logging.getLogger(__name__)

ATTEMPTS = 10
WINDOW_SECONDS = 15 * 60
REDIS_SECONDS = 1.0
REDIS_IS_AWAY = (redis.RedisError, OSError)


class Attempts:
    """The attempts to sign in by a name from an address."""

    def __init__(self, username: str, address: str) -> None:
        self._username, self._address = username, address
        who = f"{username.casefold()}\n{network_of(address)}"
        self._key = f"sign-in:{hashlib.sha256(who.encode('utf-8', 'replace')).hexdigest()}"

    def begin(self) -> None:
        """Count one more, before the password is looked at: so parallel ones are counted too.

        Raises:
            Refusal: `too_many_attempts`.
        """
        count, seconds_left = self._count()
        if count <= ATTEMPTS:
            return
        minutes = max(1, round(seconds_left / 60))
        raise Refusal(
            "too_many_attempts",
            "Too many attempts to sign in with this name from your address.",
            f"Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
            kind="too_many",
            retry_after_seconds=seconds_left,
        )

    def forget(self) -> None:
        """Start again at zero: the password was right."""
        cache.delete(self._key)
        try:
            _redis(settings.REDIS_URL).delete(self._key)
        except REDIS_IS_AWAY as error:
            log.warning("sign-in attempts are not shared: %s", error)

    def take_back(self) -> None:
        """Do not count the last one: the hub was too busy to look at the password."""
        try:
            pipeline = _redis(settings.REDIS_URL).pipeline()
            pipeline.decr(self._key)
            pipeline.expire(self._key, WINDOW_SECONDS, nx=True)  # In case that it was forgotten meanwhile.
            pipeline.execute()
        except REDIS_IS_AWAY as error:
            log.warning("sign-in attempts are not shared: %s", error)

    def log_refusal(self, why: str) -> None:
        """Log who was refused. `%r`, because the name is a stranger's text."""
        log.warning("sign-in refused: name %r, address %s: %s", self._username, self._address, why)

    def _count(self) -> tuple[int, int]:
        """Count one more; return how many there are, and after how many seconds they are forgotten."""
        try:
            pipeline = _redis(settings.REDIS_URL).pipeline()
            pipeline.incr(self._key)
            pipeline.expire(self._key, WINDOW_SECONDS, nx=True)
            pipeline.ttl(self._key)
            count, _, seconds_left = pipeline.execute()
            return int(count), max(1, int(seconds_left))
        except REDIS_IS_AWAY as error:
            log.warning("sign-in attempts are counted by this process alone: %s", error)
        cache.add(self._key, 0, WINDOW_SECONDS)
        try:
            return cache.incr(self._key), WINDOW_SECONDS
        except ValueError:  # It has just been forgotten.
            return 1, WINDOW_SECONDS


def network_of(address: str) -> str:
    """Return the IPv4 address, or the /64 network of an IPv6 one: everybody has all of those addresses."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)


@lru_cache(maxsize=2)
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS)
