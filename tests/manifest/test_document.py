"""Manifests: a written manifest reads back unchanged, and every fault is reported."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rq_clock.errors import ScheduleError
from rq_clock.manifest.definition import Item, Paused
from rq_clock.manifest.document import dump, parse, read
from rq_clock.model.schedule import Schedule, declare
from rq_clock.model.targets import Target, command, dyno, webhook
from rq_clock.timing.triggers import Trigger, cron, every, once

HOOK = "https://hooks.example.com/services/T0001/B0002/abcdefghijklmnopqrstuvwx"


def schedule(
    name: str = "job", trigger: Trigger | None = None, target: Target = "tasks.run", **options: Any
) -> Schedule:
    return declare(name, trigger or every(minutes=5), target, options)


def words(entry: str, *, masks: bool = True) -> str:
    """A manifest of one schedule `job`, from the lines of its entry."""
    lines = "".join(f"    {line}\n" for line in entry.strip().splitlines())
    head = "version: 1\n" if masks else "version: 1\nsecrets: included\n"
    return f"{head}schedules:\n  job:\n{lines}"


def one(entry: str) -> Schedule:
    [item] = parse(words(entry))
    return item.schedule


def faults(text: str) -> list[str]:
    with pytest.raises(ScheduleError) as refusal:
        parse(text)
    return str(refusal.value).splitlines()


# ---- any schedule -----------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["on", "12:30", "0123", "1e3", "2026-03-01", "~", "a\n b\n", "\n x", "a\n\n", " a", "x: y",
     "- a", "# c", "<<", "****", "Bearer ****", "loading…", "0o7", "1_0", "a\u2028b", "\x85", "\t"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(min_value=-1e308, max_value=1e308) | TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,30}", fullmatch=True)
MS = st.integers(10, 10**12)
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - made aware
    lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000, tzinfo=UTC)
)
TRIGGERS = st.one_of(
    st.builds(cron, st.sampled_from(["0 3 * * *", "*/5 * * * 1-5", "@daily", "0 6 L * *"]),
              st.sampled_from(["UTC", "Europe/Berlin"])),
    st.builds(lambda ms, anchor: every(milliseconds=ms, anchor=anchor), MS, st.none() | MOMENTS),
    st.builds(
        lambda start, anchor, n: every(hours=1, start=start, anchor=anchor, max_runs=n),
        MOMENTS, st.none() | MOMENTS | st.just(datetime(1970, 1, 1, tzinfo=UTC)),
        st.none() | st.integers(1, 100),
    ),
    st.builds(
        lambda start, days: cron("0 3 * * *", "Europe/Berlin", start=start, end=start + days),
        MOMENTS, st.integers(2, 100).map(lambda n: timedelta(days=n)),
    ),
    st.builds(
        lambda n, at, on, anchor: every(
            weeks=n, at=at, on=on, anchor=anchor.date(), tz="Asia/Tokyo"
        ),
        st.integers(1, 9), st.sampled_from(["00:00", "9:30"]), st.sampled_from([None, "mon-fri"]),
        MOMENTS,
    ),
    st.builds(once, MOMENTS),
)  # fmt: skip
PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
SPANS = st.none() | st.integers(1, 10**9).map(lambda ms: timedelta(milliseconds=ms))
URLS = st.sampled_from(
    ["https://example.com/hook", "https://example.com/a?", "HTTPS://Example.com/", HOOK,
     "http://example.com/run?token=hunter2", "https://example.com/" + "a/" * 150]
)  # fmt: skip
NAMED = st.dictionaries(
    st.sampled_from(["A", "API_KEY", "X-Token", "PATH", "Authorization"]).map(
        lambda name: name.replace("-", "_")
    ),
    PLAIN | st.just("postgres://user:secret@db/1"),
    max_size=3,
)
COMMANDS = st.builds(
    command,
    st.sampled_from(["df -h /", "set -e\nexport A=1\n  run\n", "curl -H 'Authorization: Bearer x'",
                     "mysql --password=hunter2 <<E\n\nE\n", "echo '****'", " a: b # c"]),
    timeout=st.none() | st.floats(0.001, 1e6) | st.integers(1, 10**6),
    cwd=st.none() | st.just("/srv/app"),
    env=NAMED,
)  # fmt: skip
WEBHOOKS = st.builds(
    webhook, URLS, headers=NAMED, json=JSON, timeout=st.integers(1, 300),
    method=st.sampled_from(["POST", "PUT"]),
)  # fmt: skip


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any schedule that can be declared, with any of its options."""
    catch_up = draw(st.sampled_from(["latest", "all", "none"]))
    target: Target = draw(st.just("tasks.run") | COMMANDS | WEBHOOKS)
    options: dict[str, Any] = {
        "queue": draw(TEXT.filter(bool)),
        "timeout": draw(st.none() | st.integers(1, 10**6) | st.just(-1)),
        "retries": draw(st.integers(0, 9) | st.lists(st.integers(0, 99), min_size=1, max_size=3)),
        "result_ttl": draw(st.none() | st.integers(-1, 10**6)),
        "failure_ttl": draw(st.none() | st.integers(-1, 10**6)),
        "catch_up": catch_up,
        "catch_up_window": draw(SPANS) if catch_up != "none" else None,
        "catch_up_limit": draw(st.none() | st.integers(1, 99)) if catch_up == "all" else None,
        "overlap": "allow" if catch_up == "all" else draw(st.sampled_from(["", "skip", "allow"])),
        "jitter": draw(SPANS),
        "tags": draw(st.lists(TEXT.filter(bool), max_size=3)),
        "ping": draw(st.none() | URLS),
    }
    if draw(st.booleans()):
        options |= {"group": "shop-42", "group_limit": draw(st.integers(1, 3))}
    if isinstance(target, str):
        options |= {"args": draw(st.lists(JSON, max_size=3))}
        options |= {"kwargs": draw(st.dictionaries(TEXT, JSON, max_size=3))}
    return declare(draw(NAMES), draw(TRIGGERS), target, options)


PAUSES = st.none() | st.builds(
    Paused,
    reason=TEXT,
    until=st.none() | MOMENTS,
    missed=st.sampled_from(["skip", "latest", "all"]),
)
ITEMS = st.lists(
    st.builds(Item, schedule=schedules(), paused=PAUSES),
    max_size=3,
    unique_by=lambda item: item.schedule.name,
)
FORMS = st.sampled_from(["yaml", "json"])
fewer = settings(max_examples=settings().max_examples // 5)


def facts(items: list[Item]) -> list[tuple[str, str, Paused | None]]:
    found = [(i.schedule.name, i.schedule.definition(), i.paused) for i in items]
    return sorted(found, key=lambda item: item[0])


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_arguments_as_deep_as_they_may_be_are_read_back(form: str) -> None:
    deep: list[Any] = []
    for _ in range(62):
        deep = [deep]
    schedule = declare("deep", every(hours=1), "tasks.x", {"args": [deep]})
    text = dump([Item(schedule=schedule)], form=form, secrets=True)
    assert [item.schedule for item in parse(text)] == [schedule]


@fewer
@given(ITEMS, FORMS)
def test_a_dumped_manifest_reads_back_unchanged(items: list[Item], form: str) -> None:
    text = dump(items, form=form, secrets=True)
    assert facts(parse(text)) == facts(items)
    assert dump(items[::-1], form=form, secrets=True) == text


@fewer
@given(ITEMS, FORMS)
def test_masked_values_stand_for_the_stored_ones(items: list[Item], form: str) -> None:
    stored = {item.schedule.name: item.schedule for item in items}
    assert facts(read(dump(items, form=form)).items(stored)) == facts(items)


@fewer
@given(st.builds(Item, schedule=schedules()))
def test_any_other_reader_of_yaml_sees_the_same(item: Item) -> None:
    written = (dump([item], form=form, secrets=True) for form in ("yaml", "json"))
    assert yaml.safe_load(next(written)) == json.loads(next(written))


# ---- what is written --------------------------------------------------------------------------


def test_a_manifest_is_as_a_person_would_write_it() -> None:
    items = [
        Item(schedule=schedule("b", every(hours=36), command("set -e\nrun\n", env={"LANG": "C"}))),
        Item(
            schedule=schedule(
                "a", cron("0 6 * * *", "Asia/Tokyo"), args=[42], queue="q", catch_up="all"
            ),
            paused=Paused(
                reason="on holiday", until=datetime(2026, 4, 1, tzinfo=UTC), missed="latest"
            ),
        ),
        Item(schedule=schedule("c", once(datetime(2026, 3, 1, tzinfo=UTC))), paused=Paused()),
    ]
    assert dump(items) == (
        "version: 1\n"
        "schedules:\n"
        "  a:\n"
        "    cron: 0 6 * * *\n"
        "    tz: Asia/Tokyo\n"
        "    func: tasks.run\n"
        "    args:\n"
        "    - 42\n"
        "    catchUp: all\n"
        "    queue: q\n"
        "    paused:\n"
        "      reason: on holiday\n"
        "      until: '2026-04-01T00:00:00Z'\n"
        "      missed: latest\n"
        "  b:\n"
        "    every: 36h\n"
        "    command:\n"
        "      shell: |\n"
        "        set -e\n"
        "        run\n"
        "      env:\n"
        "        LANG: C\n"
        "  c:\n"
        "    once: '2026-03-01T00:00:00Z'\n"
        "    func: tasks.run\n"
        "    paused: true\n"
    )


@pytest.mark.parametrize("secrets", [True, False])
def test_the_order_in_which_a_schedule_was_written_does_not_show(secrets: bool) -> None:
    one, other = (
        schedule(target=webhook("https://example.com", json=body, headers=headers))
        for body, headers in (
            ({"b": 1, "a": [2]}, {"X-B": "b", "X-A": "a"}),
            ({"a": [2], "b": 1}, {"X-A": "a", "X-B": "b"}),
        )
    )
    texts = [dump([Item(schedule=s)], secrets=secrets) for s in (one, other)]
    assert texts[0] == texts[1]


def test_no_schedules_are_a_manifest_too() -> None:
    assert dump([]) == "version: 1\nschedules: {}\n"
    assert parse(dump([])) == []


def test_every_option_can_stand_in_a_manifest() -> None:
    """A new option needs no change here; its value is then read as it is declared."""
    known = faults(words("every: 5m\nfunc: a.b\nzzzzzzzzzz: 1"))[0]
    for option in {f.name for f in fields(Schedule)} - {"name", "trigger", "target"}:
        head, *tail = option.split("_")
        in_camel = head + "".join(word.capitalize() for word in tail)
        assert (in_camel in known) == (option not in ("renamed_from", "allowed_targets"))


# ---- what is read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "trigger"),
    [
        ("every: 900000", every(minutes=15)),
        ("every: 15m", every(minutes=15)),
        ("every: '90s'", every(seconds=90)),
        ("every: 500ms", every(milliseconds=500)),
        ("every: 1w", every(weeks=1)),
        ("every: 2h\nanchor: 2026-03-01T00:30:00+01:00",
         every(hours=2, anchor=datetime(2026, 2, 28, 23, 30, tzinfo=UTC))),
        ("cron: 0  6 * * *", cron("0 6 * * *")),
        ("cron: 0 6 * * *\nstart: 2026-03-01\nend: 2026-04-30\ntz: Asia/Tokyo",
         cron("0 6 * * *", "Asia/Tokyo", start="2026-02-28T15:00Z", end="2026-04-30")),
        ("every: 2w\nat: 9:00\non: tue\nanchor: 2026-01-06\ntz: Asia/Tokyo",
         every(weeks=2, at="09:00", on="tue", anchor="2026-01-06", tz="Asia/Tokyo")),
        ("every: 5m\nstart: 2026-03-01T00:00Z\nmaxRuns: 9",
         every(minutes=5, start="2026-03-01", max_runs=9)),
        ("cron: '@daily'\ntz: Europe/Berlin", cron("@daily", "Europe/Berlin")),
        ("once: 2026-03-01T02:00:00+02:00", once(datetime(2026, 3, 1, tzinfo=UTC))),
        ("once: 2026-03-01T00:00:00.0001Z", once(datetime(2026, 3, 1, 0, 0, 0, 1000, tzinfo=UTC))),
    ],
)  # fmt: skip
def test_triggers_are_read_as_people_write_them(entry: str, trigger: Trigger) -> None:
    assert one(f"{entry}\nfunc: a.b").trigger == trigger


def test_a_text_alone_is_a_command_or_a_webhook() -> None:
    assert one("every: 5m\ncommand: df -h /").target == command("df -h /")
    assert one("every: 5m\ndyno: df -h /").target == dyno("df -h /")
    assert one("every: 5m\nwebhook: https://example.com").target == webhook("https://example.com")


def test_durations_are_seconds_or_texts() -> None:
    found = one(
        "every: 1h\ncommand: {shell: run, timeout: 2m}\ntimeout: 10m\nresultTtl: 1d\n"
        "failureTtl: 60\ncatchUpWindow: 1500ms\njitter: 2.5"
    )
    assert found.target == command("run", timeout=120)
    assert (found.timeout, found.result_ttl, found.failure_ttl) == (600, 86_400, 60)
    assert (found.catch_up_window, found.jitter) == (timedelta(seconds=1.5), timedelta(seconds=2.5))


def test_pauses_are_read() -> None:
    def paused(entry: str) -> Paused | None:
        [item] = parse(words(f"every: 5m\nfunc: a.b\n{entry}"))
        return item.paused

    assert paused("") is None
    assert paused("paused: false") is None
    assert paused("paused: true") == paused("paused: {}") == Paused()
    assert paused("paused: {reason: x, until: 2026-03-01T01:00+01:00, missed: all}") == Paused(
        reason="x", until=datetime(2026, 3, 1, tzinfo=UTC), missed="all"
    )


# ---- what is wrong ----------------------------------------------------------------------------


def test_every_fault_of_every_entry_is_reported_with_name_and_line() -> None:
    assert faults(
        "version: 1\n"
        "schedules:\n"
        "  good: {every: 5m, func: a.b}\n"
        "  one:\n"
        "    cron: 61 25 * * *\n"
        "    func: nodots\n"
        "    que: x\n"
        "  two: {func: a.b, queue: ''}\n"
        "  'no name': {every: 5m, func: a.b}\n"
        "  three: 7\n"
    ) == [
        "line 4: one: unknown 'que'; did you mean 'queue'?",
        "line 4: one: expected minute 0-59, got '61' in '61 25 * * *'",
        "line 4: one: expected hour 0-23, got '25' in '61 25 * * *'",
        "line 4: one: expected a dotted name, such as 'tasks.feeds.refresh', got 'nodots'",
        "line 8: two: expected one of cron, every and once, got none",
        "line 8: two: expected queue to be a name of 1-200 characters, got ''",
        "line 9: no name: expected a name of 1-100 letters, digits, '_' or '-', got 'no name'",
        "line 10: three: expected a mapping with the keys of a schedule, got a number",
    ]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("every: 5m\ncron: '* * * * *'\nfunc: a.b", "expected one of cron, every and once, got "),
        ("every: 5m\ntz: UTC\nfunc: a.b", "tz= goes with a local time, such as at="),
        ("cron: '* * * * *'\nat: 9:00\nfunc: a.b", "at goes with every"),
        ("once: 2026-03-01T00:00Z\nend: 2027-01-01\nfunc: a.b", "end goes with cron or every"),
        ("every: 2w\nat: 09:00\nfunc: a.b", "expected on="),
        ("cron: '0 3 * * *'\nstart: 5\nfunc: a.b", "expected start as 2026-03-01, "),
        ("cron: '0 3 * * *'\nmaxRuns: x\nfunc: a.b", "expected max_runs as a whole number"),
        ("cron: '* * * * *'\nanchor: 2026-03-01T00:00Z\nfunc: a.b", "anchor goes with every"),
        ("every: 5 minutes\nfunc: a.b", "expected every in milliseconds or as 15m"),
        ("every: 1.5\nfunc: a.b", "expected every in milliseconds or as 15m"),
        ("every: true\nfunc: a.b", "expected every in milliseconds or as 15m"),
        ("every: 0\nfunc: a.b", "expected a period of 10 ms to 50 years"),
        ("once: 1772323200\nfunc: a.b", "expected once as 2026-03-29T02:30:00Z"),
        ("once: 2026-03-01T00:00\nfunc: a.b", "expected once as 2026-03-29T02:30:00Z"),
        ("once: 0001-01-01T00:00:00+14:00\nfunc: a.b", "expected once as 2026-03-29T02:30:00Z"),
        ("cron: [1]\nfunc: a.b", "expected a cron expression as text"),
        ("every: 5m", "expected one of func, command, dyno and webhook, got none"),
        ("every: 5m\nfunc: a.b\ncommand: x", "webhook, got func and command"),
        ("every: 5m\nfunc: [a.b]", "expected func as the dotted name of a function, got a list"),
        ("every: 5m\ncommand: {shel: x}", "expected command as a text or as a mapping with shell"),
        ("every: 5m\ncommand: {shell: x, evn: {}}", "command: unknown 'evn'; did you mean 'env'?"),
        ("every: 5m\ndyno: {shell: x, sise: y}", "dyno: unknown 'sise'; did you mean 'size'?"),
        ("every: 5m\ncommand: x\ndyno: x", "webhook, got command and dyno"),
        ("every: 5m\ncommand: {shell: x, env: [A]}", "expected env to be a dict of texts"),
        ("every: 5m\nwebhook: ftp://example.com", "expected a URL of http or https"),
        ("every: 5m\nfunc: a.b\ncatch_up: all", "unknown 'catch_up'; did you mean 'catchUp'?"),
        ("every: 5m\nfunc: a.b\nrenamedFrom: x", "unknown 'renamedFrom'"),
        ("every: 5m\nfunc: a.b\nargs: x", "expected args to be a list"),
        ("every: 5m\nfunc: a.b\njitter: 1" + "0" * 400, "expected jitter in seconds or as 15m"),
        ("every: 5m\nfunc: a.b\njitter: soon", "expected jitter as timedelta or seconds"),
        ("every: 5m\nfunc: a.b\ntimeout: 1500ms", "expected timeout in whole seconds"),
        ("every: 5m\nfunc: a.b\npaused: yes", "expected paused as a mapping with reason, until"),
        ("every: 5m\nfunc: a.b\npaused: {reson: x}", "paused: unknown 'reson'; did you mean"),
        ("every: 5m\nfunc: a.b\npaused: {reason: 1}", "paused: expected reason to be text"),
        ("every: 5m\nfunc: a.b\npaused: {missed: no}", "expected missed to be skip, latest or all"),
        ("every: 5m\nfunc: a.b\npaused: {until: 5}", "expected paused: until as 2026-03-29T"),
        ("every: 5m\nevery: 6m\nfunc: a.b", "job: 'every' comes twice"),
    ],
)
def test_a_wrong_value_is_reported(entry: str, fault: str) -> None:
    [line] = faults(words(entry))
    assert line.startswith("line ")
    assert "job: " in line
    assert fault in line


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected a manifest with version and schedules, got nothing"),
        ("- a", "expected a manifest with version and schedules, got a list"),
        ("schedules: {}", "expected 'version: 1', got None"),
        ("version: true\nschedules: {}", "expected 'version: 1', got True"),
        ("version: 2\nschedules: {}", "expected 'version: 1', got 2"),
        ("version: 1", "expected schedules as a mapping of names, or {} for none, got nothing"),
        ("version: 1\nschedules:", "expected schedules as a mapping of names"),
        ("version: 1\nschedules: []", "expected schedules as a mapping of names"),
        ("version: 1\nschedules: {}\nscheduls: {}", "unknown 'scheduls'; did you mean 'schedules'"),
        ("version: 1\nsecrets: yes\nschedules: {}", "expected secrets to be masked or included"),
        ("version: 1\nschedules: {a: &x {every: 5m, func: a.b}, b: *x}", "no anchors and aliases"),
        ('{"version": 1, "schedules": {"a": {"every": "5m", "func": "a.b"}, "a": {}}}',
         "'a' comes twice"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_manifest_is_refused(text: str, fault: str) -> None:
    assert any(fault in line for line in faults(text))


# ---- secrets ----------------------------------------------------------------------------------

SECRETS = {
    "env": schedule(
        target=command(
            "run", env={"API_KEY": "hunter2", "LANG": "C", "DB": "postgres://me:hunter2@db/1"}
        )
    ),
    "dyno": schedule(
        target=dyno("curl -H 'Authorization: Bearer hunter2' x", env={"API_KEY": "hunter2"})
    ),
    "command": schedule(target=command("curl -H 'Authorization: Bearer hunter2' example.com")),
    "headers": schedule(
        target=webhook("https://example.com", headers={"Authorization": "hunter2", "X-A": "b"})
    ),
    "url": schedule(target=webhook("https://example.com/run?code=hunter2")),
    "path": schedule(target=webhook("https://example.com/hunter2-hunter2-hunter2")),
    "body": schedule(target=webhook("https://example.com", json={"a": [{"token": ["hunter2"]}]})),
    "kwargs": schedule(kwargs={"password": "hunter2", "full": True}),
    "args": schedule(args=["--token hunter2", 1]),
    "ping": schedule(ping="https://hc-ping.com/hunter2-4b11-4d25-8c39-9b4fe2"),
}


@pytest.mark.parametrize("place", SECRETS)
def test_a_secret_is_masked_and_kept_where_it_is_stored(place: str) -> None:
    secret = SECRETS[place]
    text = dump([Item(schedule=secret)])
    assert "hunter2" not in text
    [kept] = read(text).items({"job": secret})
    assert kept.schedule.definition() == secret.definition()


@pytest.mark.parametrize("place", SECRETS)
def test_a_masked_value_without_a_stored_one_is_reported_with_its_path(place: str) -> None:
    text = dump([Item(schedule=SECRETS[place])])
    elsewhere = schedule(target=command("other", env={"LANG": "C"}))
    for stored in ({}, {"job": elsewhere}, {"other": SECRETS[place]}):
        with pytest.raises(ScheduleError) as refusal:
            read(text).items(stored)
        lines = str(refusal.value).splitlines()
        assert all(line.startswith("line 3: job: ") for line in lines)
        assert all(" is masked, and there is no stored value" in line for line in lines)


def test_values_beside_a_masked_value_can_change() -> None:
    stored = SECRETS["env"]
    text = dump([Item(schedule=stored)]).replace("LANG: C", "LANG: de").replace("run", "walk")
    [changed] = read(text).items({"job": stored})
    assert changed.schedule.target == command(
        "walk", env={"API_KEY": "hunter2", "LANG": "de", "DB": "postgres://me:hunter2@db/1"}
    )


def test_a_value_with_another_mask_is_refused() -> None:
    stored = SECRETS["path"]
    text = dump([Item(schedule=stored)]).replace("example.com", "attacker.example")
    with pytest.raises(ScheduleError, match=r"webhook\.url is masked"):
        read(text).items({"job": stored})


def test_a_masked_value_moves_to_no_other_place() -> None:
    stored = schedule(target=webhook("https://example.com", headers={"Authorization": "hunter2"}))
    text = dump([Item(schedule=stored)]).replace("Authorization", "X-Echo")
    with pytest.raises(ScheduleError, match=r"webhook\.headers\.X-Echo is masked"):
        read(text).items({"job": stored})


def test_with_secrets_included_a_mask_is_a_text_as_any() -> None:
    starred = schedule(args=["****"])
    [item] = parse(dump([Item(schedule=starred)], secrets=True))
    assert item.schedule == starred
    with pytest.raises(ScheduleError, match=r"args\.0 is masked"):
        parse(dump([Item(schedule=starred)]))
    assert parse(words("every: 5m\nfunc: a.b\nargs: ['****']", masks=False))[0].schedule.args == (
        "****",
    )


def test_a_manifest_of_many_faults_stops_at_the_first_hundred() -> None:
    entries = {f"x{n}": {"evry": "5m"} for n in range(10_000)}
    found = faults(json.dumps({"version": 1, "schedules": entries}))
    assert 100 <= len(found) <= 110
    assert "these are the first 100" in found[-1]
