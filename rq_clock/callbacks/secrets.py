"""The auth of tasks: encrypted in Redis, opened by the dispatcher just before a call.

RQ_CLOCK_CALLBACKS_KEY has one or two texts, of 32 characters or more each. The first one encrypts,
all decrypt: to change it, put the new one before the old one, and take the old one out when no
task of before lives any more. Fernet's key is the SHA-256 of the text.

An auth that only names a variable of the workers is no secret and needs no key.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from rq_clock.errors import RqClockError
from rq_clock.model.new_task import named_variable
from rq_clock.model.variables import resolved

_SEALED, _PLAIN = b"e", b"v"
_SALT = b"rq-clock callbacks: "


class AuthUnusable(RqClockError):
    """The auth of a task cannot be used: it was encrypted with another key, or names a variable
    that this process lacks. The text never shows it."""


class Vault:
    """Encrypts and decrypts with the texts of RQ_CLOCK_CALLBACKS_KEY."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = tuple(keys)
        self._made: Any = None

    @property
    def has_key(self) -> bool:
        return bool(self._keys)

    def seal(self, auth: str) -> bytes:
        """Return an auth as a record has it. Raises RqClockError without the library or a key."""
        if not auth:
            return b""
        if named_variable(auth):
            return _PLAIN + auth.encode()
        return _SEALED + urlsafe_b64decode(self._fernet().encrypt(auth.encode()))

    def authorization(self, stored: bytes, lookup: Callable[[str], str]) -> str:
        """Return the Authorization header for what `seal` returned, empty for none: what has a
        space as it is, all else as a bearer token. `lookup` returns the value of a variable, and
        raises KeyError. Raises AuthUnusable."""
        if not stored:
            return ""
        text = self._open(stored)
        try:
            value = str(resolved(text, lookup))
        except KeyError as error:
            raise AuthUnusable(
                f"expected the variable {error.args[0]} on the worker, listed in "
                "RQ_CLOCK_WEBHOOK_ENV; set it there"
            ) from None
        if not value.strip() or not value.isascii() or not value.isprintable():
            raise AuthUnusable("expected an auth of printable ASCII, got another one")
        return value if " " in value else f"Bearer {value}"

    def _open(self, stored: bytes) -> str:
        kind, rest = stored[:1], stored[1:]
        if kind == _PLAIN:
            return rest.decode(errors="replace")
        if not self._keys:
            raise AuthUnusable("expected RQ_CLOCK_CALLBACKS_KEY to be set, got none; set it here")
        from cryptography.fernet import InvalidToken

        try:
            opened: bytes = self._fernet().decrypt(urlsafe_b64encode(rest))
        except InvalidToken:
            raise AuthUnusable(
                "expected an auth that a key of RQ_CLOCK_CALLBACKS_KEY opens, got one of another "
                "key; put the former key behind the new one, separated by a comma"
            ) from None
        return opened.decode()

    def _fernet(self) -> Any:
        if self._made is None:
            if not self._keys:
                raise RqClockError("expected RQ_CLOCK_CALLBACKS_KEY to be set, got none")
            try:
                from cryptography.fernet import Fernet, MultiFernet
            except ImportError:
                raise RqClockError(
                    "expected the library cryptography, which encrypts the auth of tasks; install "
                    "rq-clock[callbacks]"
                ) from None
            digests = (sha256(_SALT + key.encode()).digest() for key in self._keys)
            self._made = MultiFernet([Fernet(urlsafe_b64encode(d)) for d in digests])
        return self._made
