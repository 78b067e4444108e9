"""The web process of this app: rq-clock's pages, and those of its tasks."""

from rq_clock.web import run_web
from tasks.reports.web import reports

if __name__ == "__main__":
    run_web(extra=[reports])
