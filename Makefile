# The commands of the project. Each makes .venv/ first, once, from the lock file: only python3 (3.11 to 3.13), make and
# coreutils are needed. Another Python: make setup PYTHON=python3.13

PYTHON ?= python3
PY := .venv/bin/python
# make test PYTEST_ARGS="tests/broker -x" runs a part; PYTEST_ARGS="-n 0" in one process.
PYTEST = $(PY) -m pytest $(PYTEST_ARGS)
# Tests wait for brokers and sessions more than they compute, on any number of cores (ARCHITECTURE.md has the figures).
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

# Ctrl-C reaches make and what it runs at once; a target that was cut short is not taken for done.
.DELETE_ON_ERROR:
.SUFFIXES:
# For programs that load onnxruntime before anything of ours (stream/__init__.py says why).
export ORT_DISABLE_TELEMETRY := 1
MAKEFLAGS += --no-builtin-rules --no-print-directory

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r name what; do printf '%-16s %s\n' "$$name" "$$what"; done

.PHONY: setup
setup: ## make .venv/ with every extra; nothing to do when it is there
	@$(PYTHON) deploy/tools/setup_venv.py

.PHONY: demo
demo: setup ## the whole product on this machine, under 5 minutes; HOLD=1 goes on until stopped
	@$(PY) -m stream demo $(if $(HOLD),--hold)

.PHONY: test
test: setup ## every test but the long ones, on a real broker
	@$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS) -m "not long"

.PHONY: test-fast
test-fast: setup ## what needs neither broker nor TensorFlow, under a minute
	@$(PYTEST) -m "not (long or slow or needs_broker)" --ignore=tests/training --examples=20

.PHONY: test-long
test-long: setup ## the tests that take minutes each
	@$(PYTEST) -m long

.PHONY: lint
lint: setup ## ruff and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

.PHONY: bench
bench: setup ## the whole job against plain Faust, and Kafka Streams where a JDK is there, into var/bench.json
	@$(PY) -m tests.bench

.PHONY: fuzz
fuzz: setup ## a million bent inputs to all that reads bytes of others; INPUTS=, SEED= repeats a run
	@$(PY) -m tests.fuzz $(if $(INPUTS),--inputs $(INPUTS)) $(if $(SEED),--seed $(SEED))

.PHONY: faults
faults: setup ## crashes, zombies, broker failures, bad disks at random, into var/faults.json; FAULTS=200 SEED= MINUTES= KINDS=
	@$(PY) -m tests.faults

.PHONY: shop-eval
shop-eval: setup ## what each policy earns in the simulated shop, whose truth is known, into var/shop.json
	@OPENBLAS_NUM_THREADS=1 $(PY) -m stream.shop.evaluate_cli

.PHONY: deploy-test
deploy-test: setup ## the Helm chart, alerts and image; gets helm and promtool where it can
	@$(PY) -m tests.deploy

.PHONY: docs
docs: setup ## write the pages that are made from the code: docs/cli.md
	@$(PY) deploy/tools/write_cli_docs.py

.PHONY: lock
lock: setup ## pin the newest versions allowed by pyproject.toml, and Kafka's jars (needs the network)
	@$(PY) deploy/tools/lock_requirements.py
	@$(PY) deploy/tools/lock_jars.py
