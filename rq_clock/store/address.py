"""The URL of the server, in every form that platforms and libraries write it. Pure.

    redis://[user[:password]@]host[:port][/database]    valkey:// is the same
    rediss://…                                          with TLS; valkeys:// is the same
    unix://[user[:password]@]/path?db=0
    redis+sentinel://[user[:password]@]host[:port],host[:port]/service/database
    rediss+sentinel://…                                 with TLS to the sentinels too

A password is never shown. One with a character that ends it early (# / ? or @) is refused, since
what remains of it would be taken for a host. So no part of a URL is shown that cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

SCHEMES = {
    "redis": "redis",
    "valkey": "redis",
    "rediss": "rediss",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+sentinel": "redis+sentinel",
    "valkey+sentinel": "redis+sentinel",
    "rediss+sentinel": "rediss+sentinel",
    "valkeys+sentinel": "rediss+sentinel",
}
"""Scheme → the one that it means."""
ESCAPES = "write # as %23, / as %2F, ? as %3F, @ as %40, % as %25"
SENTINEL_PORT = 26379
_HOST = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_VERIFICATION = {
    f"{prefix}{word}": word for prefix in ("", "cert_") for word in ("none", "optional", "required")
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def _switch(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _verification(text: str) -> str:
    return _VERIFICATION[text.lower()]


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "db": (int, "a number"),
    "username": (str, ""),
    "password": (str, ""),
    "sentinel_username": (str, ""),
    "sentinel_password": (str, ""),
    "socket_timeout": (float, "seconds"),
    "socket_connect_timeout": (float, "seconds"),
    "socket_keepalive": (_switch, "1 or 0"),
    "health_check_interval": (float, "seconds"),
    "ssl_cert_reqs": (_verification, "none, optional or required"),
    "ssl_check_hostname": (_switch, "1 or 0"),
    "ssl_ca_certs": (str, ""),
    "ssl_ca_path": (str, ""),
    "ssl_certfile": (str, ""),
    "ssl_keyfile": (str, ""),
    "ssl_password": (str, ""),
}
"""Option → how it is read, and what it is. Those of other libraries and tools mean nothing here."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, or the sentinels that know it. `options` are redis-py's for its connections, with
    host and port but for sentinels; `repr` has none of them."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def tls(self) -> bool:
        return self.scheme.startswith("rediss")

    @property
    def sentinel(self) -> bool:
        return self.scheme.endswith("+sentinel")


def parse_address(url: str) -> Address:
    """Return the address that a URL names. Raises ValueError, with a text that shows no part of it
    that may be secret."""
    written, scheme, userinfo, authority, path, query = _split(url)
    options = _options(query, tls=scheme.startswith("rediss"))
    sentinel_options = {
        name.removeprefix("sentinel_"): options.pop(name)
        for name in ("sentinel_username", "sentinel_password")
        if name in options
    }
    user, _, password = userinfo.partition(":")
    found = {"username": unquote(user), "password": unquote(password)}
    options |= {name: value for name, value in found.items() if value}
    if scheme == "unix":
        if authority or not path:
            raise ValueError("expected unix:///path/of/the/socket, got no path")
        return Address(scheme, options={"path": unquote(path), **options})
    sentinel = scheme.endswith("+sentinel")
    hosts = _hosts(authority, SENTINEL_PORT if sentinel else 6379)
    if not sentinel and len(hosts) != 1:
        raise ValueError(f"expected one host, got {len(hosts)}; sentinels need {written}+sentinel")
    service, _, database = path.strip("/").rpartition("/") if sentinel else ("", "", path[1:])
    if sentinel and not service and not database.isdecimal():
        service, database = database, ""
    if database.strip("/").isdecimal():
        options.setdefault("db", int(database.strip("/")))
    if sentinel:
        service = unquote(service) or "mymaster"
        return Address(scheme, hosts, service, options, sentinel_options)
    host, port = hosts[0]
    return Address(scheme, hosts, options={"host": host, "port": port, **options})


def redacted(url: str) -> str:
    """Return a URL without user, password and options, to show it; of one that cannot be read no
    more than its scheme. Never raises."""
    try:
        written, _, _, authority, path, _ = _split(url)
        _hosts(authority, 0)
    except ValueError:
        found = re.match(r"[a-z][a-z+.-]{1,19}://", url)
        return f"{found[0] if found else ''}…"
    shown = re.sub(r"[^\w./@-]", "?", path)
    return f"{written}://{authority}{shown}"


def _split(url: str) -> tuple[str, str, str, str, str, str]:
    """Return scheme as written, scheme, user and password, hosts, path and query of a URL."""
    written, separator, rest = url.strip().partition("://")
    if not separator or written not in SCHEMES:
        got = (
            f"{written}://"
            if separator and written.isalpha() and len(written) < 16
            else "another text"
        )
        raise ValueError(
            f"expected redis://, rediss://, valkey://, unix:// or redis+sentinel://, got {got}"
        )
    end = re.search(r"[/?#]", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    userinfo, _, authority = authority.rpartition("@")
    scheme = SCHEMES[written]
    path, _, query = tail.partition("?")
    hidden = "@" in (query if scheme == "unix" and not authority else tail)
    if "#" in rest or hidden:
        raise ValueError(f"a user, password or option needs escapes: {ESCAPES}")
    return written, scheme, userinfo, authority, path, query


def _hosts(authority: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in authority.split(",") if authority else ["localhost"]:
        found = _HOST.fullmatch(part)
        if not found or int(found["port"] or 0) > 65535:
            raise ValueError(
                "expected host or host:port, with an IPv6 address in [], got another text (not "
                f"shown, it may hold a password). In user and password {ESCAPES}"
            )
        hosts.append((found["host"].strip("[]"), int(found["port"] or default_port)))
    return tuple(hosts)


def _options(query: str, *, tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query):
        if name.startswith("ssl_") and name not in _READ:
            known = ", ".join(known for known in _READ if known.startswith("ssl_"))
            raise ValueError(f"expected one of {known}, got another option that begins with ssl_")
        if name.startswith("ssl_") and not tls:
            raise ValueError(f"{name} needs TLS: write rediss:// for redis://, or leave it out")
        if name not in _READ:
            continue
        read, expected = _READ[name]
        try:
            found[name] = read(text)
        except (ValueError, KeyError):
            raise ValueError(f"{name}: expected {expected}, got another text") from None
    return found
