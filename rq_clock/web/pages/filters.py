"""Filters and functions of templates: instants with their zone, durations, states, links. Pure.

In a template:

    {{ t|when("Europe/Berlin") }}    <time>Sun 29 Mar 03:00 CEST</time>; and another year
    {{ t|when(seconds=True) }}       to the second, UTC
    {{ t|ago }}                      3 min ago, in 2 h; beside an instant, never instead of it
    {{ length|span }}                a timedelta: 4.7 s, 2 h 5 min
    {{ 4.7|lasted }}                 seconds: 4.7 s
    {{ "4700"|ms }}                  a text of milliseconds: 4.7 s; — for any other text
    {{ pill("failing") }}            ✕ failing; with a second value, that word in its place
    {{ link("/", state="late") }}    a path of this site with a query, without its empty values
    {{ 12345|count }}                12,345
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import iso
from rq_clock.timing.zones import zone

SIGNS = {
    "ok": "✓", "scheduled": "✓", "done": "✓", "late": "!", "stuck": "!", "interrupted": "!",
    "paused": "‖", "skipped": "‖", "canceled": "‖", "ended": "■", "waiting": "○", "running": "▶",
    "calling": "▶", "retrying": "!", "stale": "✕",
    "invalid": "⊘", "failing": "✕", "failed": "✕", "timed_out": "✕", "stopped": "✕", "lost": "✕",
}  # fmt: skip
"""State → its sign; the word always stands beside it."""
_TONES = {"✓": "ok", "!": "warn", "▶": "info", "✕": "bad", "⊘": "bad"}
"""Sign → its tone; others are muted."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
"""The English names of strftime, which is much slower: a page has thousands of instants."""


def install(env: Environment) -> None:
    env.filters |= {
        "urlencode": _segment, "span": duration_text, "ms": _ms, "ago": _ago, "when": _when,
        "count": "{:,}".format, "lasted": _lasted,
    }  # fmt: skip
    env.globals |= {"pill": pill, "link": _link}


def ago(t: datetime, now: datetime) -> str:
    """Return an instant relative to another: "3 min ago", "in 2 h"; "now" within a second."""
    seconds = round(abs(t - now) / timedelta(seconds=1))
    rounded = timedelta(seconds=seconds if seconds < 120 else seconds // 60 * 60)
    if not rounded:
        return "now"
    return f"in {duration_text(rounded)}" if t > now else f"{duration_text(rounded)} ago"


def local_text(local: datetime, year: int | None, *, seconds: bool = False) -> str:
    """Return an instant by the clock of its zone: "Sun 29 Mar 03:00 CEST"."""
    shown_year = "" if local.year == year else f" {local.year}"
    clock = f"{local.hour:02}:{local.minute:02}"
    if seconds or local.second:
        clock += f":{local.second:02}"
    name = local.tzname() or ""
    zoned = name if name[:1].isalpha() else f"UTC{name}"
    day, month = _DAYS[local.weekday()], _MONTHS[local.month - 1]
    return f"{day} {local.day} {month}{shown_year} {clock} {zoned}"


def when(
    t: datetime, tz: str, now: datetime | None, *, seconds: bool = False, word: str = ""
) -> Markup:
    """Return an instant by the clock of a zone, for people and machines. With a `word` such as
    "3 min ago" the page shows the word, and the instant as a hint."""
    at, local = iso(t), t.astimezone(zone(tz).info)
    shown = local_text(local, now.year if now else None, seconds=seconds)
    hint = shown if word else f"{at}, {tz}"
    return Markup(f'<time datetime="{at}" title="{hint}">{word or shown}</time>')


@lru_cache(maxsize=256)
def pill(state: str, word: str = "") -> Markup:
    """Return a state as a coloured pill with its sign and word."""
    sign = SIGNS.get(state, "○")
    tone, shown = _TONES.get(sign, "mute"), escape(str(word or state.replace("_", " ")))
    return Markup(
        f'<span class="pill {tone}"><span aria-hidden="true">{sign}</span> {shown}</span>'
    )


def path_with(path: str, **query: Any) -> str:
    """Return a path with a query, without its empty values."""
    kept = {name: value for name, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(kept, errors='replace')}" if kept else path


def _segment(word: str) -> str:
    """Return a word as one segment of a path: no word can lead elsewhere."""
    return quote(word, safe="", errors="replace")


def _lasted(seconds: float) -> str:
    return duration_text(timedelta(seconds=seconds))


def _ms(text: str | None) -> str:
    return duration_text(timedelta(milliseconds=int(text))) if text else "—"


@pass_context
def _when(context: Context, t: datetime, tz: str = "UTC", *, seconds: bool = False) -> Markup:
    return when(t, tz, context.get("now"), seconds=seconds)


@pass_context
def _ago(context: Context, t: datetime, now: datetime | None = None) -> str:
    beside = now or context.get("now")
    return ago(t, beside) if beside else ""


@pass_context
def _link(context: Context, path: str, **query: Any) -> str:
    return path_with(context.get("root", "") + path, **query)
