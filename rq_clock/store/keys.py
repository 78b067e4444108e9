"""Every key of a namespace. Instants are epoch milliseconds; prefix `rq-clock:<namespace>:`.

    the lease of the clock
    lease                hash     token, instance, owner, since, proven, and what the leader reports
                                  of itself; expires when it is not renewed
    fence                number   grows with every change of holder
    unproven             string   instance that deposed a leader and has not finished its first pass
                                  yet; expires
    handovers            stream   every new grant of the lease, capped: instance, owner, token (its
                                  number), how (free, deposed, taken-over), from (the holder before,
                                  or ""); the entry's id has the instant
    meta                 hash     version (of this data), owner, release (last one reconciled), led
                                  (when a clock last renewed the lease), counted (its newest portion
                                  of counters), history (entries of a ledger, as the clock that
                                  leads is set), tzdata (zone data by which due was checked last),
                                  packages (of the declared functions)
    news                 channel  "lease", ":duties", ":reap", ":callbacks", "*" or a schedule: look
                                  there

    schedules
    definitions          hash     schedule → definition, JSON of Schedule.definition()
    declared             set      schedules that come from code; the others were added at run time
    markers              hash     schedule → "<marker or -> <known since> [job id…]": the newest
                                  decided fire time, since when it is known, and the jobs that
                                  overlap has to look at (the last one is the last enqueued)
    revision             number   source of revisions
    revisions            hash     schedule → number raised by every change of definition or pause;
                                  "*" for that of all schedules
    pauses               hash     schedule or "*" → JSON of entry.Pause; also one that has ended
    skips                hash     schedule → JSON of entry.SkipRequest
    due                  zset     schedule by next fire time, or by the end of the pause that holds
                                  what is due (+inf: the pause of all); derived from the rest
    ledger:<schedule>    list     the outcome of each fire time, oldest first, capped:
                                  "<s|c|m|b> <fire time> <lag ms>"    enqueued: on schedule, caught
                                                                      up, manual, backfill; behind
                                                                      that how it ended:
                                  " <state> <attempt> <started> <ended> <worker> <error…>"
                                  "- <first> <last> <count> <reason>" skipped; behind the reason
                                                                      invalid the error
                                  "x <instant> <job id>"              a job found to be lost
    duties               zset     what the leader has to do beside the tick, by when:
                                  "backfill:<id>" takes the next step of a backfill
    backfills            zset     ids of backfills, by creation
    backfill:<id>        hash     schedule, start, end, at_once, total, by, reason, since; rule, the
                                  trigger at its creation (JSON); left_out, fire times that ran
                                  already; and what the leader keeps: cursor, the newest fire time
                                  decided; enqueued, skipped; jobs, those that may live; state:
                                  running, done, canceled. Expires when it has ended
    audit                stream   by, verb, schedules (the first few), count, reason, detail; capped
    alerts               hash     "<kind>:<schedule, queue or host>" → JSON of the alert; "@stale" →
                                  tasks known to have failed for good; "@runs" → the
                                  entry of `runs` up to which they are known

    runs and workers
    workers              hash     worker → "<last sign of life> [<execution> <job id> <queue>]"
    reaper               string   the worker that reaps the dead while no clock leads; expires
    runs                 stream   every ended attempt of every run, newest last, capped: schedule,
                                  job, its ledger entry, and where the job goes on (again)
    succeeded            hash     schedule → newest fire time whose run succeeded
    outcomes             hash     schedule → "<state> <fire time> <started> <ended> <end of the
                                  newest success or -> <end of the newest failure or -> <failures
                                  in a row>" of its latest run that ended for good; a lost job
                                  starts and ends when it was found missing
    days:<schedule>      hash     "<days since 1970, UTC> <ok|failed>" → runs that ended for good on
                                  that day; of the last 30 days, expires
    failing              zset     schedule by its newest failure's end, from then until its next
                                  success; a run that an operator stops is neither
    failed:<schedule>    list     its failed jobs that RQ keeps, oldest first, capped: an older one
                                  is deleted. Not those with a failure_ttl of their own; expires a
                                  year after the newest, as RQ forgets that one
    turns:<group>        set      jobs of the group whose turn it is: one, unless it has a limit
    waiting:<group>      list     its parked jobs, in the order in which they get their turn
    groups               set      the groups with parked jobs
    output:<job id>      string   the last 64 kB that a job printed; written while it runs, expires
    outputs              zset     jobs by the place of their output: see lua/output.lua; expires
    dyno:<run id>        hash     a one-off dyno of a job: job, intended; name and id, once it was
                                  created; owner and began, once its command has begun; ended, code
                                  and because, once it has ended. Expires
    dyno-output:<run id> stream   what its command prints, capped: n (counts the pieces), stream,
                                  data. Expires
    counters             hash     field → number: see counters.py; of all schedules
    counters:<schedule>  hash     the same of one

    callbacks; ids without "task_"; lua/tasks.lua has their invariants
    tasks                hash     task → its record: see tasks.py
    task-details         hash     task → JSON: headers, payload, dedupKey; only where it has some
    task-tags            hash     task → JSON list; only where it has some
    task-keys            hash     task → its dedup key; only where it has one
    task-dedup           hash     dedup key → the task that lives with it
    task-queue:<class>   zset     tasks that wait, by the instant from which they may be called; the
                                  classes are 1 high, 3 normal, 5 low, one more for a failed task
    task-room:<kind>     zset     due tasks whose host is at its limit, score 0: "<host> <class>
                                  <instant, 13 digits> <task>"; kinds: new, failed
    task-open            zset     the first such task of each host that may be called again, score
                                  0: "<class><instant> <task> <host>"
    task-limited         zset     the other hosts with such tasks, by when to look at them again
    task-claims          zset     tasks that are being called, by when the claim runs out
    task-hosts           hash     host → its calls that are going
    task-pace            zset     host by the instant of its next call, if it has a rate; past ones
                                  are removed
    task-throttle        hash     tat, when the next call is due at a steady rate; of the present
                                  batch: batch (its number), left (calls that may still begin),
                                  out (calls that are going), until (when it ends at the latest),
                                  ended (its last answer)
    task-done            zset     tasks that ended so, by when; trimmed by count and age
    task-stale           zset     the same; trimmed by age
    task-canceled        zset     the same; trimmed by count and age
    task-attempts:<id>   list     its calls, oldest first, capped: "<ended> <JSON>"
    task-failing         hash     host of which every call fails → "<failures> <since> <last>
                                  <result>"; removed a week after its last failure
    task-counters        hash     see tasks.py
    task-minutes         hash     "<minute> <result>" → calls; minute → the newest; of an hour
    task-configuration   hash     the fields of model.callbacks.Configuration that were changed
    task-dispatchers     zset     dispatcher by when its place expires

    apps and web
    locks:<name>         hash     owner, token, since, ttl (ms); done, once its block has ended
                                  and the lock is kept back; expires
    lock-token:<name>    number   the newest token of a lock; expires 30 days after the last grant
    attempts:<network>   number   wrong tokens of a network; expires
    logouts              zset     ended sessions of browsers, by when (s) their cookies expire
    idempotency:<hash>   string   "<digest> <id of the thing made>" of a request that acts once: see
                                  idempotency.py; expires

Nobody else reads or writes these keys. Jobs and their queues are RQ's.
"""

from __future__ import annotations


def key_of(namespace: str, name: str) -> str:
    return f"rq-clock:{namespace}:{name}"
