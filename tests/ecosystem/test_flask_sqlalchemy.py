"""Flask-SQLAlchemy: jobs of one app never share a transaction, in either mode of the processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from rq import Queue
from rq.job import Job

from tests.ecosystem.conftest import Start, finish

db = SQLAlchemy()


class Row(db.Model):  # type: ignore[name-defined, misc]
    id: Any = db.Column(db.Integer, primary_key=True)
    text: Any = db.Column(db.String)


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE"]
    db.init_app(app)
    return app


def remove_session(_: Job) -> None:
    db.session.remove()


def insert(text: str) -> int:
    db.session.add(Row(text=text))
    db.session.commit()
    return os.getpid()


def leave_open(text: str, *, fail: bool) -> int:
    """Leave an open transaction with a row in it."""
    db.session.add(Row(text=text))
    db.session.flush()
    if fail:
        raise ValueError(text)
    return os.getpid()


WORKER = """
from rq_clock import run_worker
from tests.ecosystem.test_flask_sqlalchemy import remove_session
run_worker(after_job=remove_session)
"""
APP = "flask:tests.ecosystem.test_flask_sqlalchemy:create_app"


@pytest.mark.parametrize("horse_jobs", ["1", "100"], ids=["isolated", "shared"])
def test_no_job_touches_the_open_transaction_of_another(
    queue: Queue, start: Start, tmp_path: Path, horse_jobs: str
) -> None:
    database = f"sqlite:///{tmp_path / 'app.db'}"
    os.environ["DATABASE"] = database
    with create_app().app_context():
        db.create_all()
    env = {"DATABASE": database, "RQ_CLOCK_SETUP": APP, "RQ_CLOCK_HORSE_JOBS": horse_jobs}
    worker = start("-c", WORKER, **env)
    pairs = [
        (
            queue.enqueue(leave_open, f"open {number}", fail=number % 2 == 1),
            queue.enqueue(insert, f"committed {number}"),
        )
        for number in range(10)
    ]
    finish([job for pair in pairs for job in pair], worker)
    assert [second.get_status() for _, second in pairs] == ["finished"] * 10
    for first, second in pairs[::2]:
        shared = first.return_value() == second.return_value()
        assert shared == (horse_jobs == "100")
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        texts = [text for (text,) in connection.execute(sa.text("SELECT text FROM row"))]
    engine.dispose()
    assert texts == [f"committed {number}" for number in range(10)]
