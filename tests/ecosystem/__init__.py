"""Our worker among RQ's neighbours: stock workers, dashboards, Django, Sentry and others.

Each file runs one neighbour's real package against real processes and a real server. `make
ecosystem` installs them (requirements-ecosystem.txt) and runs these tests; `make test` does not.
"""
