"""RQ's own test suite, with rq-clock's worker in the place of RQ's.

`python -m tests.rq_suite` runs it with RQ's worker and with ours, and compares. `--ours` leaves out
the first half, as CI does. known.yaml lists each test that ends differently, and why: the run fails
when another test fails, and when a listed one passes.

The tests come from the source distribution of the RQ that requirements.txt pins, verified by its
hash there. Each of their files runs in a process of its own, with a server of its own.
"""
