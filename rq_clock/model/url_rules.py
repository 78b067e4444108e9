"""What a URL and the headers of a web call must be. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from rq_clock.model.variables import in_host, plain
from rq_clock.redaction import masked_repr, masked_url

LONGEST_URL = 8000
"""Limit of characters."""
OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})
_URL = re.compile(r"[!#$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+\Z")


def header_faults(headers: object) -> Iterator[str]:
    """Yield what is wrong with the names of a call's headers."""
    names = [n.lower() for n in headers if isinstance(n, str)] if isinstance(headers, dict) else []
    for name in sorted(set(names)):
        if name in OWN_HEADERS:
            yield f"the header {masked_repr(name)} is rq-clock's to set; leave it out"
        if names.count(name) > 1:
            yield f"the header {masked_repr(name)} comes twice"


def url_faults(url: object) -> Iterator[str]:
    """Yield what is wrong with the URL of a call."""
    if not isinstance(url, str) or not url:
        yield f"expected a URL, as 'https://example.com/hook', got {masked_repr(url)}"
        return
    shown = masked_url(url)
    if len(url) > LONGEST_URL:
        yield f"expected a URL of at most {LONGEST_URL:,} characters, got {len(url):,}: {shown}"
        return
    if in_host(url):
        yield f"expected a variable in the path or query of {shown}, not in its host"
    url = plain(url)
    if not _URL.match(url):
        yield f"expected a URL of plain characters, the others as %XX (hosts as xn--…), got {shown}"
        return
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        yield f"cannot read the URL {shown}: {error}"
        return
    if parts.scheme not in ("http", "https"):
        yield f"expected a URL of http or https, got {shown}"
    if "@" in parts.netloc:
        yield f"expected {shown} without user and password; give them as header Authorization"
    if not host or host.strip(".") == "" or "%" in host:
        yield f"expected a host in the URL {shown}"
    if port == 0 or "#" in url:
        yield f"expected the URL {shown} without fragment and with a port above 0"
