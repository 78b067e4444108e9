"""Mask secrets in texts. Pure.

A value is secret when its name says so (API_KEY, Authorization, …) or when it is a URL with a user
or password in it. Secrets are masked in every text about a target, and their values in what a
command prints or a web call answers.

Not here: finding a secret without a name. `echo $((40 + 2))` may print one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "****"
SHORTEST = 6
"""Characters of a value that is hidden in output; a shorter one would blot out innocent text."""

_WORDS = r"key|token|secret|passw|passphrase|passcode|credential|cookie|authorization|signature"
_SHORT = r"auth|bearer|creds?|jwt|otp|totp|pass|pin|pwd|session[_-]?id|sid|sig"
"""Words that are secret when they stand alone or behind a _ or -: not in author, option, signal."""
_NAME = re.compile(
    rf"{_WORDS}|(?:\A|[_\W])(?:{_SHORT})(?:\Z|[_\W](?:id|code|value)\Z)", re.IGNORECASE
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_VARIABLE = re.compile(r"(?:\S{1,20} )?\$\{env:[^{}\s]{0,200}\}\Z")
"""A text that only names a variable, behind the scheme of a header at most."""
_USERINFO = re.compile(
    # of a Redis: also a password that should have # / ? and @ escaped
    r"(?:(?<=\bredis://)|(?<=\brediss://)|(?<=\bvalkey://)|(?<=\bvalkeys://)|(?<=sentinel://))"
    r"[^\s\"']{1,500}(?=@)"
    r"|(?<=://)[^\s/?#@\"']+(?=@)"
)
# name=value, "name": "value", name: Bearer value, --name value; not name=$VARIABLE. The bounds keep
# it linear, whatever the text.
_ASSIGNED = re.compile(
    rf"(?:(?P<name>(?<![\w-])[\w-]{{0,60}}?(?:{_WORDS}|_pass|_pwd)[\w-]{{0,60}}[\"']?\s*"
    rf"[=:](?!//)\s*"
    rf"|(?<![A-Za-z])(?:x-)?(?:{_SHORT})(?:=|[\"']\s*:\s*|(?<=-auth):\s*))"
    rf"|(?P<switch>(?<!\S)--?[\w-]{{0,60}}?(?:{_WORDS})[\w-]{{0,60}}\s+))"
    r"(?P<scheme>(?:bearer|basic|token|digest)\s+)?"
    r"(?P<value>\"[^\"$][^\"]*\"|'[^']+'|[^\s\"'$;|&<>][^\s\"';|&<>]*)",
    re.IGNORECASE,
)
_CREDENTIAL = re.compile(
    r"\b(?P<scheme>(?:bearer|basic)\s{1,9})"
    r"(?P<value>(?=[^\s\"']{0,500}[\d=]|[^\s\"']{16})[\w.~+/=-]{8,})",
    re.IGNORECASE,
)
"""As in the header Authorization, whatever the name before it. It has a digit, or is long: a word
behind "basic" is none."""
_PART = re.compile(r"[^/]{20,}")  # of a path: a part this long is an identifier, often a secret


_OPTIONS = {
    r"(?:mysql|mariadb)[\w-]*|7z[arz]?|rar|unrar": "-p",
    "(?:redis|valkey)-cli": r"(?:-a|--pass)\s+",
    "sshpass": r"-p\s*",
    r"mongo\w*|(?:docker|podman) login|twine|az|cqlsh|ncftp\w*": r"-p\s+",
    r"sqlcmd|bcp|mosquitto_\w+|zip|unzip": r"-P\s*",
    r"ldap\w+": r"-w\s*",
    r"(?<!\S)https?(?=\s)": "(?:-a |--auth[ =])",
    "openssl": r"(?:-\w+\s+pass:|-k\s+)",
    "lftp": r"-u\s+\w+,",
}
"""Commands → the option before a password that has no name."""
_OPTION = re.compile(
    r"(?P<start>(?<!\S)(?:-u|-U|--user|--proxy-user)[ =]?[\"']?[^\s:\"'=%+]{1,100}[:%]|"
    + "|".join(rf"\b(?:{name})\b[^|;&\n]{{0,200}}?\s{option}" for name, option in _OPTIONS.items())
    + rf"|\bconfig(?:ure)? set\s+[\w.-]{{0,60}}?(?:{_WORDS})[\w.-]{{0,60}}\s+"
    r"|\bvault\s+login\s+"
    # services whose webhook's path is its secret
    r"|//hooks\.slack\.com/|//discord(?:app)?\.com/api/webhooks/|//api\.telegram\.org/bot"
    r"|//hc-ping\.com/|\.webhook\.office\.com/"
    r")[\"']?(?P<value>[^\s\"'$;|&<>][^\s\"';|&<>]*)"
)
_KEY_ALONE = re.compile(
    r"(?P<start>(?<!\S)(?:-u|--user)[ =]?[\"']?)[^\s:\"'=$]{1,200}(?=:[\"'\s]|:\Z)"
)
"""A user without a password is often a key: `curl -u sk_live_…:`."""


def is_secret(name: str) -> bool:
    """Return whether a variable or header of this name holds a secret."""
    return bool(_NAME.search(_CAMEL.sub("_", name))) and name != "PWD"  # a shell's directory


def masked(values: Mapping[str, str]) -> dict[str, str]:
    """Return variables or headers with secret values masked."""
    return {n: _masked_value(n, v) for n, v in values.items()}


def masked_json(value: Any) -> Any:
    """Return a JSON value with its secrets masked."""
    if isinstance(value, dict):
        return {
            n: _masked_value(str(n), v) if isinstance(v, str) else _masked_part(str(n), v)
            for n, v in value.items()
        }
    if isinstance(value, list):
        return [masked_json(item) for item in value]
    return masked_text(value) if isinstance(value, str) else value


def _masked_value(name: str, value: str) -> str:
    if _VARIABLE.match(value):
        return value
    return MASK if is_secret(name) else masked_text(value)


def _masked_part(name: str, value: Any) -> Any:
    return MASK if is_secret(name) else masked_json(value)


def masked_text(text: str) -> str:
    """Return a command line with its plain secrets masked."""
    text = _USERINFO.sub(MASK, text)
    text = _KEY_ALONE.sub(lambda m: m["start"] + MASK, text)
    text = _OPTION.sub(lambda m: m["start"] + MASK, text)
    text = _CREDENTIAL.sub(lambda m: m["scheme"] + MASK, text)
    return _ASSIGNED.sub(lambda m: (m["name"] or m["switch"]) + (m["scheme"] or "") + MASK, text)


def masked_url(url: str) -> str:
    """Return a URL without user, query and long parts of its path, where services put the secret of
    a webhook. Never raises."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        path = _PART.sub(lambda m: m[0] if _VARIABLE.match(m[0]) else MASK, parts.path)
    except ValueError:
        return "(not a URL)"
    start = f"{parts.scheme}://{host}" if host else ""
    return printable(start + path + ("?…" if parts.query else ""), 200)


def printable(text: str, limit: int) -> str:
    """Return a text for one line, without control characters that a terminal would obey."""
    text = escaped(text.replace("\t", " "))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escaped(text: str, kept: str = "") -> str:
    """Return a text in which all but printable characters are escaped: ESC, CR, BEL, those of C1,
    line separators, marks that change the direction of writing, halves of surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)


def masked_repr(value: object, limit: int = 200) -> str:
    """Return a value for a message: its repr, for one line and without plain secrets; its type when
    it has none, as of an integer of 5,000 digits. Never raises."""
    try:
        text = masked_text(repr(value)[: limit * 5])
    except Exception:  # too long, too deep, or raised by the value itself
        return f"a value of type {type(value).__name__} that cannot be shown"
    return printable(text, limit)


class Secrets:
    """The values of secret variables or headers, masked wherever they occur."""

    def __init__(self, values: Mapping[str, str]) -> None:
        words = {word for name, value in values.items() for word in _secrets_in(name, value)}
        found = [word.encode(errors="surrogateescape") for word in words if len(word) >= SHORTEST]
        found.sort(key=len, reverse=True)  # of two that begin alike, the longer
        self.longest = len(found[0]) if found else 0
        self._pattern = re.compile(b"|".join(map(re.escape, found))) if found else None

    def hide(self, data: bytes) -> bytes:
        """Return the data with a mask in place of each secret value."""
        return self._pattern.sub(MASK.encode(), data) if self._pattern else data

    def hide_text(self, text: str) -> str:
        """Return the text with a mask in place of each secret value."""
        return self.hide(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")


NO_SECRETS = Secrets({})


class StreamMask:
    """Masks secrets in a stream that comes in pieces, also those that are cut in two."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """Return what can be passed on: of a line without an end, not what may be the beginning of
        a secret."""
        data = self._secrets.hide(self._rest + piece)
        line = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        end = max(line, len(data) - max(self._secrets.longest - 1, 0))
        self._rest = data[end:]
        return data[:end]

    def finish(self) -> bytes:
        """Return the rest."""
        return self._rest


def _secrets_in(name: str, value: str) -> Iterator[str]:
    if is_secret(name):
        yield value
        yield from value.splitlines()  # a private key is printed line by line
        yield value.partition(" ")[2]  # what follows "Bearer"
    yield from (found["value"] for found in _CREDENTIAL.finditer(value))
    for userinfo in _USERINFO.findall(value):
        user, _, password = userinfo.partition(":")
        yield from (password or user, unquote(password or user))
