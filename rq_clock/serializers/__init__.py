"""The JSON of rq-clock, declared once: for `--json`, the API and its OpenAPI document. Pure.

    schedules.py   schedules, fire times, differences
    runs.py        runs, backfills
    jobs.py        jobs, queues, workers
    clock.py       the status of a namespace

The base of all views is model/view.py. Not here: how things look on a terminal or a page.
"""
