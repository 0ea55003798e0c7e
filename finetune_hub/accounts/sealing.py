"""Secrets that the service must be able to read again, sealed before they reach the database (Fernet: AES and HMAC).

The key comes from SECRET_KEY: whoever has the database alone, or a backup of it, has none of the secrets.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings


class UnreadableSecret(Exception):
    """The secret was sealed with another SECRET_KEY. Give it again."""


def seal(secret: str) -> str:
    return _fernet().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """
    Raises:
        UnreadableSecret: SECRET_KEY is not the one that it was sealed with.
    """
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise UnreadableSecret("It was sealed with another SECRET_KEY: give it again.") from error


def _fernet() -> Fernet:
    digest = hashlib.sha256(b"finetune_hub.accounts.sealing" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
