"""A report as a document: rows from the database, as CSV, and as HTML with a table and a chart.

The chart is made of table cells: mail programs show neither scripts nor SVG. Texts of shops are
escaped for HTML, and for spreadsheets, which would run a cell that begins with "=".
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from io import StringIO
from zoneinfo import ZoneInfo

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tasks.reports.models import Order, ReportSchedule

ROWS = 1000
"""Rows of a report at most; the largest of "sales", the newest of "orders"."""
BARS = 10
_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""How a formula begins. Spreadsheets for Japanese, Chinese or Korean take the wide signs, too."""
Row = tuple[str, ...]
Rows = tuple[Row, list[Row], list[tuple[str, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The time that a report covers: (`after`, `until`], by the clock of the shop's zone."""

    after: datetime
    until: datetime
    tz: str

    def __str__(self) -> str:
        zone = ZoneInfo(self.tz)
        first, last = (f"{t.astimezone(zone):%Y-%m-%d %H:%M}" for t in (self.after, self.until))
        return f"{first} to {last} ({self.tz})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report that is ready to be sent."""

    title: str
    csv: str
    html: str
    text: str
    rows: int


def sales(db: Session, shop: str, period: Period) -> Rows:
    """Return the sales by product: titles, rows, and the bars of the chart."""
    cents = func.sum(Order.cents)
    found = db.execute(
        select(Order.product, func.sum(Order.quantity), cents)
        .where(Order.shop == shop, Order.ordered_at > period.after)
        .where(Order.ordered_at <= period.until)
        .group_by(Order.product)
        .order_by(cents.desc(), Order.product)
        .limit(ROWS)
    ).all()
    rows: list[Row] = [(product, str(pieces), _money(total)) for product, pieces, total in found]
    return ("Product", "Pieces", "Sales"), rows, [(name, total) for name, _, total in found[:BARS]]


def orders(db: Session, shop: str, period: Period) -> Rows:
    """Return the orders one by one, newest first, and their sum by day."""
    zone = ZoneInfo(period.tz)
    found = db.execute(
        select(Order.ordered_at, Order.product, Order.quantity, Order.cents)
        .where(Order.shop == shop, Order.ordered_at > period.after)
        .where(Order.ordered_at <= period.until)
        .order_by(Order.ordered_at.desc(), Order.id.desc())
        .limit(ROWS)
    ).all()
    rows: list[Row] = []
    days: dict[str, int] = {}
    for at, product, pieces, cents in found:
        local = at.astimezone(zone)
        rows.append((f"{local:%Y-%m-%d %H:%M}", product, str(pieces), _money(cents)))
        days[f"{local:%Y-%m-%d}"] = days.get(f"{local:%Y-%m-%d}", 0) + cents
    return ("Time", "Product", "Pieces", "Amount"), rows, sorted(days.items())[-BARS:]


KINDS: dict[str, Callable[[Session, str, Period], Rows]] = {
    "sales": sales,
    "orders": orders,
}
"""Type of a report → what makes its rows. Add your own here."""


def render(db: Session, report: ReportSchedule, token: str, period: Period) -> Document:
    """Return the document of a report. `token` is the shop's access token, for a report that asks
    the shop's API; those of the example only read the database."""
    titles, rows, bars = KINDS[report.kind](db, report.shop, period)
    title = f"{report.name} of {report.shop}"
    return Document(
        title=title,
        csv=_csv(titles, rows),
        html=_html(title, str(period), titles, rows, bars),
        text=f"{title}\n{period}\n{len(rows)} rows; they are in the attached file.\n",
        rows=len(rows),
    )


def _money(cents: int) -> str:
    return f"{cents / 100:.2f}"


def _csv(titles: Row, rows: Sequence[Row]) -> str:
    out = StringIO()
    writer = csv.writer(out)
    writer.writerow(titles)
    writer.writerows([_cell(word) for word in row] for row in rows)
    return out.getvalue()


def _cell(word: str) -> str:
    """Return a word that no spreadsheet takes for a formula. A number stays one."""
    if word.startswith(_FORMULA) and not word.lstrip("-").replace(".", "", 1).isdigit():
        return f"'{word}"
    return word


def _html(
    title: str, period: str, titles: Row, rows: Sequence[Row], bars: Sequence[tuple[str, int]]
) -> str:
    head = "".join(f'<th align="left">{escape(word)}</th>' for word in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(word)}</td>" for word in row) + "</tr>" for row in rows
    )
    table = f'<table cellpadding="4"><tr>{head}</tr>{body}</table>' if rows else "<p>No rows.</p>"
    return (
        '<!doctype html><html><body style="font-family:sans-serif">'
        f"<h1>{escape(title)}</h1><p>{escape(period)}</p>{_chart(bars)}{table}</body></html>"
    )


def _chart(bars: Sequence[tuple[str, int]]) -> str:
    """Return bars of 1-100 % width, the largest value as the measure."""
    largest = max((value for _, value in bars), default=0)
    if largest <= 0:
        return ""
    lines = []
    for name, value in bars:
        width = max(1, round(100 * max(0, value) / largest))
        bar = f'<div style="background:#0a54ad;height:12px;width:{width}%">&#8203;</div>'
        lines.append(
            f'<tr><td>{escape(name)}</td><td width="300">{bar}</td>'
            f'<td align="right">{_money(value)}</td></tr>'
        )
    return f'<table cellpadding="4" role="img" aria-label="Chart">{"".join(lines)}</table>'
