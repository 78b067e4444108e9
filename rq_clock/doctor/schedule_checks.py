"""The checks of `rq-clock doctor` about schedules: problems and their remedies. Pure.

Each check yields its findings from the `Facts` of facts.py, and none raises. An error keeps
something from running, or will. A warning is a risk or a sign of one. An info needs no action.

A finding's code never changes its meaning: scripts and alerts rely on it. The checks of the server,
the leader and the queues are in server_checks.py.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial

from rq_clock.doctor import server_checks
from rq_clock.doctor.facts import Facts, Seen
from rq_clock.doctor.server_checks import ERROR, INFO, WARNING, Finding, count_of, error, few, info
from rq_clock.timing.describe import dst_remarks
from rq_clock.timing.durations import duration_text
from rq_clock.timing.instants import iso
from rq_clock.timing.triggers import Trigger

AHEAD = timedelta(minutes=1)
"""How far a marker may be ahead: machines' clocks differ."""
HERD = 1000
"""Schedules of one second, more than the workers of most apps can start at once."""
_DAY = timedelta(days=1)


def findings(facts: Facts, now: datetime) -> list[Finding]:
    """Return all findings, worst first. `now` is this machine's time, read just before the facts
    were gathered: it is only compared with the server's."""
    found = [finding for check in server_checks.CHECKS for finding in check(facts, now)]
    found += [finding for check in _CHECKS for finding in check(facts, facts.time)]
    return sorted(found, key=lambda f: (ERROR, WARNING, INFO).index(f.level))


def healthy(found: Iterable[Finding]) -> bool:
    return all(finding.level == INFO for finding in found)


def _about(
    level: str, code: str, schedules: Mapping[str, str], text: str, remedy: str
) -> Iterator[Finding]:
    """Yield one finding about these schedules, if there are any. `text` gets their number and the
    descriptions of the first few."""
    if schedules:
        count = count_of(len(schedules), "schedule")
        text = text.format(count, few(schedules.values()))
        names = tuple(schedules)
        yield Finding(level, code, text, remedy, names)


_errors, _warnings, _infos = (partial(_about, level) for level in (ERROR, WARNING, INFO))


# ---- markers ----------------------------------------------------------------------------------


def _markers(facts: Facts, now: datetime) -> Iterator[Finding]:
    repairs = "`rq-clock doctor --rebuild-index`, or restart the clock: both"
    yield from _errors(
        "marker-missing",
        {n: f"{n} (last {iso(t)})" if t else n for n, t in sorted(facts.unmarked.items())},
        "{} without a marker, and not due until it is restored; Redis lost data: {}",
        f"{repairs} restore markers from the history",
    )
    behind = [s for s in facts.seen if s.recorded and s.recorded > s.entry.decided]
    since = min((s.entry.decided for s in behind), default=now)
    yield from _errors(
        "marker-behind",
        {s.entry.name: f"{s.entry.name} from {_or_never(s.recorded)} to {iso(s.entry.decided)}"
         for s in behind},
        "the markers of {} went back, as when a failover loses data; what was written since "
        f"{iso(since)} may be gone: {{}}",
        "the clock decides those fire times again and leaves out the ones whose jobs still exist; "
        "see that the others do no harm, and that replicas keep up",
    )  # fmt: skip
    yield from _errors(
        "marker-ahead",
        {s.entry.name: f"{s.entry.name} until {iso(s.entry.decided)}"
         for s in facts.seen if s.entry.decided > now + AHEAD},
        "{} decided for times to come, as when a clock ran ahead, and not due before: {}",
        f"set the clocks right; {repairs} set back what is more than 3 hours ahead, the rest waits",
    )  # fmt: skip


# ---- the due index ----------------------------------------------------------------------------


def _index(facts: Facts, now: datetime) -> Iterator[Finding]:
    yield from _errors(
        "index-wrong",
        {s.entry.name: f"{s.entry.name} at {_or_never(s.entry.next_fire)} instead of "
                       f"{_or_never(s.next)}"
         for s in facts.seen if s.misplaced and not s.entry.held(facts.status.now)},
        "the due index is wrong about {}: {}",
        "`rq-clock doctor --rebuild-index`, also while the clock works",
    )  # fmt: skip


def _trouble(facts: Facts, now: datetime) -> Iterator[Finding]:
    """Yield the trouble that every other view shows; see model/verdict.py."""
    status = facts.status
    yield from _warnings(
        "late",
        {name: f"{name} by {duration_text(status.now - t)}" for name, t in status.late.items()},
        "{} late: {}",
        "if a clock leads, its log says why (run.undecided, commit.refused)",
    )
    yield from _warnings(
        "stuck",
        {name: f"{name} since {iso(t)}" for name, t in status.stuck.items()},
        "{} blocked by a job that does not end: {}",
        "`rq-clock show <schedule>` names the job; end it, or set a timeout",
    )
    yield from _warnings(
        "failing",
        {name: f"{name}, last at {iso(t)}" for name, t in status.failing.items()},
        "{} failing: {}",
        "`rq-clock logs <schedule>` shows the traceback of the last run",
    )


# ---- definitions ------------------------------------------------------------------------------


def _definitions(facts: Facts, now: datetime) -> Iterator[Finding]:
    yield from _errors(
        "invalid-definition",
        {s.entry.name: s.entry.fault for s in facts.seen if s.entry.schedule is None},
        "{} never due, with a definition that this release cannot read: {}",
        "deploy the release that wrote it, or declare it again",
    )
    yield from _errors(
        "ledger-unreadable",
        {s.entry.name: f"{s.entry.name} ({s.trouble})" for s in facts.seen if s.trouble},
        "{} with a ledger that cannot be read, which can keep a schedule from being due: {}",
        f"delete rq-clock:{facts.namespace}:ledger:<schedule>; its history is lost then",
    )
    yield from _warnings(
        "never-again",
        {s.entry.name: s.entry.name for s in facts.seen if s.next is None and not _over(s, now)},
        "{} never due again: {}",
        "correct the trigger, or remove the schedule",
    )
    places: dict[str, list[str]] = defaultdict(list)
    for key, names in facts.strays.items():
        for name in names:
            places[name].append(key)
    yield from _warnings(
        "orphans",
        {name: f"{name} ({', '.join(keys)})" for name, keys in sorted(places.items())},
        "traces of {} without a definition: {}",
        f"remove them from the keys named (rq-clock:{facts.namespace}:…; `--rebuild-index` does it "
        "for `due`); a new schedule of such a name would continue from them",
    )


def _over(seen: Seen, now: datetime) -> bool:
    """Return whether it has rightly no fire time to come."""
    schedule = seen.entry.schedule
    if schedule is None or (end := schedule.trigger.ends_at) is None:
        return schedule is None
    last = schedule.trigger.latest_at(end)
    return last is None or last <= now


def _code(facts: Facts, now: datetime) -> Iterator[Finding]:
    code = facts.code
    if code.problem:
        yield info("app-unread", f"the declared schedules were not compared: {code.problem}")
    if code.faults:
        yield error(
            "app-faulty",
            f"no clock starts with what the app declares: {few(code.faults)}",
            "`rq-clock check` lists each fault",
        )
    if code.schedules is None or code.faults or not facts.readable:
        return
    stored = {s.entry.name: s.entry.schedule for s in facts.seen if s.entry.declared}
    differing = stored.keys() ^ code.schedules.keys()
    for name in stored.keys() & code.schedules.keys():
        known = stored[name]
        if known is None or known.definition() != code.schedules[name].definition():
            differing.add(name)
    yield from _warnings(
        "code-differs",
        {name: name for name in sorted(differing.difference(facts.unmarked))},
        "{} declared otherwise here than the clock has reconciled: {}",
        "restart the clock with this release; until then the reconciled definitions run",
    )


# ---- times ------------------------------------------------------------------------------------


def _times(facts: Facts, now: datetime) -> Iterator[Finding]:
    soon = {
        s.entry.name: s.entry.next_fire.replace(microsecond=0)
        for s in facts.seen
        if s.entry.next_fire and now < s.entry.next_fire <= now + _DAY
    }
    herds = {t: count for t, count in sorted(Counter(soon.values()).items()) if count > HERD}
    if herds:
        yield info(
            "herd",
            "many schedules are due in the same second: "
            + few([f"{count} at {iso(second)}" for second, count in herds.items()]),
            "set `jitter` on those that need not start on the second",
            schedules=tuple(name for name, second in soon.items() if second in herds),
        )
    names: dict[Trigger, list[str]] = defaultdict(list)  # many share one, and it costs 0.1 ms each
    for seen in facts.seen:
        if seen.entry.schedule and seen.next:
            names[seen.entry.schedule.trigger].append(seen.entry.name)
    remarks = {
        name: f"{name} ({found[0]})"
        for trigger in names
        if (found := dst_remarks(trigger, now))
        for name in names[trigger]
    }
    yield from _infos(
        "clock-change",
        dict(sorted(remarks.items())),
        "{} touched by a change of the clocks within a year: {}",
        "none if that is intended; `rq-clock explain` shows more",
    )


_CHECKS = (_markers, _index, _trouble, _definitions, _code, _times)


def _or_never(t: datetime | None) -> str:
    return iso(t) if t else "never"
