"""Access tokens of shops. They are encrypted with REPORTS_SECRET, decrypted when they are used,
and never logged.

Several secrets, separated by commas, let you change it: the first one encrypts, all decrypt. Fernet
signs what it encrypts, so a token that somebody has changed in the database is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from tasks.reports import settings


class NoSession(Exception):
    """The shop has no token that can be used; the text says why."""


def _fernet() -> MultiFernet:
    keys = (sha256(b"tasks.reports" + secret.encode()).digest() for secret in settings.secrets())
    return MultiFernet([Fernet(urlsafe_b64encode(key)) for key in keys])


def encrypt(token: str) -> bytes:
    """Return a token as the database stores it. Raises SettingError without a secret."""
    return _fernet().encrypt(token.encode())


def decrypt(stored: bytes | None) -> str:
    """Return a stored token. Raises NoSession when there is none, or when it was encrypted with
    another secret or changed since; SettingError without a secret."""
    if not stored:
        raise NoSession("no session found")
    try:
        return _fernet().decrypt(stored).decode()
    except InvalidToken:
        reason = "invalid session: not encrypted with REPORTS_SECRET, or changed since"
        raise NoSession(reason) from None
