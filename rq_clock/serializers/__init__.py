"""The JSON of rq-clock, declared once: for `--json`, the API and its OpenAPI document. Pure.

    schedules.py   schedules, fire times, differences
    jobs.py        runs, jobs, backfills, queues, workers
    clock.py       the status of a namespace

Not here: how things look on a terminal or a page.
"""
