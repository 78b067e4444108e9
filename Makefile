# Needs only make and Python 3.11 or newer; PYTHON=python3.12 chooses another one.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
PEERS := .venv/peers/ready
ECOSYSTEM := .venv/ecosystem/ready
unexport PYTHONDONTWRITEBYTECODE  # each process of the tests would compile everything again

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-17s%s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## .venv with everything for development

# The environment's defaults are those of a laptop; what .env says wins. A pipe's reader, such as
# tee, ends at Ctrl-C before honcho does; honcho would fail at its next line and leave the processes
# behind. The loop reads on instead.
run: setup  ## Redis, clock, worker and web process in the foreground; Ctrl-C ends all
	@export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1 \
	REDIS_URL=$${REDIS_URL:-redis://127.0.0.1:6399/0}; \
	mkdir -p .data; [ -s .data/callbacks-key ] || (umask 077; \
	$(BIN)/python -c 'import secrets; print(secrets.token_hex(32))' > .data/callbacks-key); \
	export RQ_CLOCK_CALLBACKS_KEY=$${RQ_CLOCK_CALLBACKS_KEY:-$$(cat .data/callbacks-key)}; \
	set -- $(BIN)/honcho -f Procfile.dev start -p $${PORT:-8000}; \
	if [ -t 1 ]; then exec "$$@"; fi; \
	"$$@" | (trap '' INT PIPE; while IFS= read -r line; do printf '%s\n' "$$line" 2>/dev/null; done)

# In the order of the files, so that those with storms don't all come at the end.
PYTEST = $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder
test: setup  ## all tests but the long ones
	$(PYTEST)

test-unit: setup  ## the tests without a server or another process
	$(BIN)/pytest -n 2 --dist worksteal -m "unit and not soak"

test-integration: setup  ## the tests that need a server
	$(PYTEST) -m "integration and not soak"

test-process: setup  ## the tests that start processes, kill them, or drive a browser
	$(PYTEST) -m "process and not soak"

check: setup  ## what CI checks: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: setup  ## write the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

servers: setup  ## the tests with a server, on each version of Redis and Valkey to be had; TESTS="…"
	$(BIN)/python -m tests.servers $(TESTS)

rq-tests: setup  ## RQ's own test suite, with RQ's worker and with ours, side by side
	$(BIN)/python -m tests.rq_suite

ecosystem: setup $(ECOSYSTEM)  ## our worker beside stock RQ, dashboards, Django, Sentry and others
	.venv/ecosystem/bin/python -m pytest -c tests/ecosystem/pytest.ini tests/ecosystem

bench: setup $(PEERS)  ## side by side with RQ's own clock and workers, and Celery's
	$(BIN)/python -m bench

bench-scale: setup  ## a million run-time schedules beside a thousand; five minutes
	$(BIN)/python -m bench.scale

bench-web: setup $(PEERS)  ## the pages and the API of 10,000 schedules, beside rq-dashboard
	$(BIN)/python -m bench.web

house: setup  ## lines, long files and functions, banned names; CHECKOUTS="a b" side by side
	@$(BIN)/python -m bench.house $(CHECKOUTS)

screenshots: setup  ## docs/img: each page, light and dark, 1280 and 390 wide; needs Chromium
	$(BIN)/python -m tests.web.pages.screenshots

storm: setup  ## the long tests: storms at full length, properties with many more examples
	$(BIN)/pytest -m soak -s -o faulthandler_timeout=0
	RQ_CLOCK_EXAMPLES=8000 $(BIN)/pytest -o faulthandler_timeout=0 tests/timing/test_triggers_properties.py

COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock"
EXTRAS = --extra web --extra alerts --extra callbacks --extra reports
lock: setup  ## renew the pins in requirements*.txt
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml $(EXTRAS) --output-file requirements.txt
	$(COMPILE) pyproject.toml $(EXTRAS) --extra dev --constraints requirements.txt \
		--output-file requirements-dev.txt
	$(COMPILE) --group bench --output-file requirements-bench.txt
	$(COMPILE) pyproject.toml --group ecosystem --constraints requirements.txt \
		--output-file requirements-ecosystem.txt

clean:  ## remove what can be made again; .data stays
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# The project itself goes in as it stands here (-e), with nothing that the pins don't name.
$(READY): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rq-clock needs Python 3.11 or newer; see PYTHON in the Makefile")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# Only for the benches, which do without it when this fails; it doesn't go with our own pins.
$(PEERS): requirements-bench.txt | $(READY)
	-$(BIN)/python -m venv --clear .venv/peers && .venv/peers/bin/pip install --quiet \
		--disable-pip-version-check --require-hashes -r requirements-bench.txt && touch $@

# With no regard to what the neighbours ask of each other: rq-exporter asks for an older redis-py.
$(ECOSYSTEM): requirements-ecosystem.txt
	$(PYTHON) -m venv --clear .venv/ecosystem
	.venv/ecosystem/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r requirements-ecosystem.txt
	@touch $@

.PHONY: help setup run test test-unit test-integration test-process check format servers rq-tests ecosystem bench bench-scale bench-web house screenshots storm lock clean
