"""Addresses that a web call may reach. Pure: no name is resolved here.

Anybody who can edit a schedule chooses the URL, and a DNS server chooses its address. So only
public addresses are called. Everything behind the firewall (the database, the platform's metadata
service, a neighbour) needs an entry in RQ_CLOCK_WEBHOOK_ALLOW.

`ipaddress` alone is not enough: in Python 3.11 `is_global` is true for NAT64 and 6to4 forms of
127.0.0.1, for multicast and for site-local addresses, and `is_private` is false for 100.64/10.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_INSIDE = [
    *map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    ip_network("fc00::/7"),
]
_CARRIERS = [  # IPv6 addresses that stand for an IPv4 one, which may be any
    *map(ip_network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
]
_SPECIAL = [
    ip_network("168.63.129.16/32"),  # Azure's platform, as its link-local one
    *map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20", "5f00::/16")),
]
_GLOBAL_IPV6 = ip_network("2000::/3")


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of RQ_CLOCK_WEBHOOK_ALLOW: a host or a network, at one port or at any.

    A host allows the private and loopback addresses that its name resolves to. Link-local
    addresses, where platforms keep their metadata, need a network.
    """

    host: str = ""
    network: Network | None = None
    port: int | None = None

    def covers(self, host: str, port: int, address: Address) -> bool:
        """Return whether this entry allows a call."""
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address in self.network
        inside = address.is_loopback or any(address in network for network in _INSIDE)
        return self.host == host.lower().rstrip(".") and inside


def parse_allowed(text: str) -> tuple[Allowed, ...]:
    """Return the entries of a comma-separated list. Raises ValueError with the wrong one."""
    return tuple(_entry(word) for word in text.replace(",", " ").split())


def _entry(word: str) -> Allowed:
    try:
        return Allowed(network=ip_network(word.strip("[]")))
    except ValueError:
        host, colon, digits = word.rpartition(":")
        if not colon:
            host, digits = word, ""
    port = int(digits) if digits.isdecimal() else None
    if colon and (port is None or not 1 <= port <= 65535):
        raise ValueError(word)
    try:
        return Allowed(network=ip_network(host.strip("[]")), port=port)
    except ValueError:
        if not host or set(host) & set("/:@?#*[]"):
            raise ValueError(word) from None
    return Allowed(host=host.lower().rstrip("."), port=port)


def literal(host: str) -> Address | None:
    """Return the address that a URL has as its host; None for a name."""
    try:
        return _plain(host)
    except ValueError:
        return None


def refusal(host: str, port: int, address: str, allowed: tuple[Allowed, ...]) -> str:
    """Return why `host` must not be called at `address`; empty when it may be."""
    ip = _plain(address)
    kind = _kind(ip)
    if not kind or any(entry.covers(host, port, ip) for entry in allowed):
        return ""
    where = f"{host} is" if literal(host) else f"{host} resolves to {ip},"
    opening = host if ip.is_loopback or any(ip in n for n in _INSIDE) else str(ip)
    return f"{where} {kind}; RQ_CLOCK_WEBHOOK_ALLOW={opening} would allow it"


def _plain(text: str) -> Address:
    """Return the address without its zone, and as IPv4 when it only wraps one."""
    ip = ip_address(text.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def _kind(ip: Address) -> str:
    """Return the kind of an address that is not public; empty for a public one."""
    outside = ip.version == 6 and ip not in _GLOBAL_IPV6
    kinds = {
        "the unspecified address": ip.is_unspecified,
        "a loopback address": ip.is_loopback,
        "a link-local address": ip.is_link_local,
        "a multicast address": ip.is_multicast,
        "a private address": any(ip in network for network in _INSIDE),
        "an address that stands for another": any(ip in network for network in _CARRIERS),
        "a reserved address": outside or not ip.is_global or any(ip in n for n in _SPECIAL),
    }
    return next((kind for kind, matches in kinds.items() if matches), "")
