"""A shop to try the reports with: `python -m tasks.reports.sample`.

It adds the shop "sample.example" with a session, a week of orders, and two reports, of which the
first is due at once. Run it again for more orders.
"""

from __future__ import annotations

import random
from datetime import timedelta

from sqlalchemy import select

from tasks.reports.database import reading, writing
from tasks.reports.models import Order, ReportSchedule
from tasks.reports.schedules import add_report, now, run_soon, set_session

SHOP = "sample.example"
_PRODUCTS = {"Apples": 250, "Pears": 320, "Plums": 410, "Quinces": 560}


def add_orders(shop: str, count: int, seed: int = 7) -> None:
    """Add orders of the last week, the same ones for a seed."""
    draw, until = random.Random(seed), now()
    with writing() as db:
        for _ in range(count):
            product, price = draw.choice([*_PRODUCTS.items()])
            pieces = draw.randint(1, 9)
            at = until - timedelta(seconds=draw.randint(60, 7 * 86_400))
            db.add(
                Order(shop=shop, ordered_at=at, product=product, quantity=pieces,
                      cents=pieces * price)
            )  # fmt: skip


def main() -> None:
    """Add the shop and make its first report due."""
    set_session(SHOP, "not-a-real-token")
    add_orders(SHOP, 200)
    with reading() as db:
        ids = db.scalars(select(ReportSchedule.id).where(ReportSchedule.shop == SHOP)).all()
    found = ids or [
        add_report(shop=SHOP, name="Weekly sales", kind="sales", cron_text="0 9 * * mon",
                   tz="Europe/Berlin", recipients=["ann@example.com"]),
        add_report(shop=SHOP, name="Daily orders", kind="orders", cron_text="30 8 * * *",
                   tz="Europe/Berlin", recipients=["ann@example.com", "bob@example.com"]),
    ]  # fmt: skip
    run_soon(found[0])
    print(f"{SHOP}: {len(found)} reports, the first is due now; the next check runs it")


if __name__ == "__main__":
    main()
