"""Suggestions for names that are not time zones, and warnings about zones that surprise. Pure."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

_ABBREVIATIONS = {  # of times, for which a city is only an example
    "America/New_York": "EDT ET EASTERN", "America/Chicago": "CST CDT CT CENTRAL",
    "America/Denver": "MDT MT MOUNTAIN", "America/Los_Angeles": "PST PDT PT PACIFIC",
    "America/Anchorage": "AKST AKDT", "America/Halifax": "AST ADT ATLANTIC",
    "America/Sao_Paulo": "BRT E._SOUTH_AMERICA", "Europe/London": "BST GMT_STANDARD_TIME",
    "Europe/Berlin": "CEST W._EUROPE", "Europe/Paris": "ROMANCE", "Europe/Helsinki": "EEST FLE",
    "Europe/Warsaw": "CENTRAL_EUROPEAN", "Europe/Budapest": "CENTRAL_EUROPE",
    "Europe/Athens": "GTB", "Europe/Moscow": "MSK RUSSIAN", "Africa/Johannesburg": "SAST",
    "Asia/Dubai": "GST ARABIAN", "Asia/Kolkata": "IST", "Asia/Shanghai": "CCT", "Asia/Tokyo": "JST",
    "Asia/Seoul": "KST", "Asia/Singapore": "SGT", "Asia/Hong_Kong": "HKT",
    "Australia/Perth": "AWST W._AUSTRALIA", "Australia/Adelaide": "ACST ACDT CEN._AUSTRALIA",
    "Australia/Brisbane": "E._AUSTRALIA", "Australia/Sydney": "AEST AEDT AUS_EASTERN",
    "Pacific/Auckland": "NZST NZDT NEW_ZEALAND",
}  # fmt: skip
_CITIES = {
    "America/New_York": "boston washington miami atlanta philadelphia usa united_states_of_america",
    "America/Chicago": "houston dallas austin", "America/Phoenix": "us_mountain",
    "America/Los_Angeles": "san_francisco seattle san_diego las_vegas california",
    "America/Toronto": "ottawa montreal", "America/Sao_Paulo": "rio_de_janeiro brasilia",
    "Europe/London": "uk united_kingdom great_britain england manchester edinburgh",
    "Europe/Berlin": "munich hamburg frankfurt cologne", "Europe/Madrid": "barcelona",
    "Europe/Rome": "milan", "Europe/Zurich": "geneva bern", "Europe/Moscow": "st_petersburg",
    "Asia/Kolkata": "mumbai delhi new_delhi bangalore chennai", "Asia/Seoul": "korea south_korea",
    "Asia/Shanghai": "beijing shenzhen guangzhou", "Asia/Tokyo": "osaka kyoto",
    "Asia/Ho_Chi_Minh": "hanoi", "Asia/Dubai": "abu_dhabi", "Asia/Jerusalem": "haifa",
    "Australia/Sydney": "canberra",
}  # fmt: skip
_FIXED = {
    "EST": ("UTC-5", "America/New_York"),
    "MST": ("UTC-7", "America/Denver"),
    "HST": ("UTC-10", "Pacific/Honolulu"),
}
_OFFSET = re.compile(r"(?:utc|gmt|z)?_?([+-])_?(\d{1,2})(?::?(\d\d))?")
_REVERSED = re.compile(r"(?:Etc/)?GMT([+-])([1-9]\d?)")


def suggestion(key: str, names: Iterable[str]) -> str:
    """Return what to write for a key that is none of the `names` of zones."""
    plain = key.strip().lower().replace(" ", "_")
    windows = plain.removesuffix("_standard_time").removesuffix("_daylight_time")
    last = windows.rpartition("/")[2]
    if match := _OFFSET.fullmatch(plain):
        return _of_offset(match[1], int(match[2]), int(match[3] or 0))
    abbreviations = _inverted(_ABBREVIATIONS)
    if zone := abbreviations.get(plain) or abbreviations.get(windows):
        return f"abbreviations and Windows names are no zones: write a city, such as {zone!r}"
    known = _inverted(_CITIES) | {name.lower().rpartition("/")[2]: name for name in names}
    known |= {name.lower(): name for name in names}
    if zone := known.get(last) or known.get(windows):
        return f"did you mean {zone!r}?"
    if zones := _of_countries().get(last):
        if len(zones) > 1:
            return f"that country has {len(zones)} zones, such as {zones[0]!r}: write your city's"
        return f"did you mean {zones[0]!r}?"
    known = {name: zone for name, zone in known.items() if not zone.startswith("Etc/")}
    near = difflib.get_close_matches(plain[:50], known, n=1, cutoff=0.7)
    if near:
        return f"did you mean {known[near[0]]!r}?"
    return "rq_clock.timing.zones.zone_names() lists them"


def zone_warnings(key: str) -> list[str]:
    """Return how a zone differs from what its name suggests: at most one line."""
    if key in _FIXED:
        offset, city = _FIXED[key]
        also = "" if key == "HST" else ", which has daylight saving"
        return [f"zone {key!r} is {offset} all year; better a city, such as {city!r}{also}"]
    if match := _REVERSED.fullmatch(key):
        place = "behind" if match[1] == "+" else "ahead of"
        return [f"zone {key!r} is {match[2]} h {place} UTC: its sign is reversed; better a city"]
    return []


def _of_offset(sign: str, hours: int, minutes: int) -> str:
    if hours == minutes == 0:
        return "did you mean 'UTC'?"
    better = "write the city whose clock you mean, such as 'Europe/Berlin'"
    if minutes or hours > (14 if sign == "+" else 12):
        return f"an offset is no zone: {better}"
    name = f"Etc/GMT{'-' if sign == '+' else '+'}{hours}"
    place = "ahead of" if sign == "+" else "behind"
    return f"{better}; {name!r} is {hours} h {place} UTC all year, its sign is reversed"


@cache
def _of_countries() -> Mapping[str, list[str]]:
    """Return the zones of each country, by its English name and its code, from tzdata's tables."""
    files = resources.files("tzdata") / "zoneinfo"
    zones = defaultdict[str, list[str]](list)
    for code, _, zone in _rows((files / "zone.tab").read_text(encoding="utf-8")):
        zones[code].append(zone)
    names = _rows((files / "iso3166.tab").read_text(encoding="utf-8"))
    return {name.lower().replace(" ", "_"): zones[code] for code, name in names}


def _rows(table: str) -> list[list[str]]:
    """Return the cells of a table, three at most, without comments."""
    lines = (line for line in table.splitlines() if line and not line.startswith("#"))
    return [line.split("\t")[:3] for line in lines]


def _inverted(names: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): zone for zone, listed in names.items() for name in listed.split()}
