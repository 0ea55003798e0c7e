"""Encryption of secrets that must be read again, such as Hugging Face tokens, with a key derived from SECRET_KEY.

Uses Fernet: AES-128-CBC with HMAC-SHA-256. The database alone does not reveal the secrets.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class Unreadable(Exception):
    """The secret was encrypted with another SECRET_KEY."""


def seal(secret: str) -> str:
    """Encrypt the secret for storage."""
    return _fernet().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """Decrypt the secret.

    Raises:
        Unreadable: SECRET_KEY has changed.
    """
    try:
        return _fernet().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unreadable from error


def _fernet() -> Fernet:
    derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"finetune_hub.accounts.sealing")
    return Fernet(base64.urlsafe_b64encode(derive.derive(settings.SECRET_KEY.encode())))
