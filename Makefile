# Nothing but Python 3.11 or newer and make is needed. `make` alone lists what there is.
PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8888
BIN     = $(VENV)/bin
# Set LAB_FLAGS=--no-browser where there is no screen.
LAB_FLAGS ?=
TESTS  ?=
# How many tests at a time; each has servers of its own, and most of them wait most of the time.
WORKERS ?= 4
LOCKED  = $(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock

.PHONY: help lab test test-redis check browser load challenges mutants coverage soak bench notebooks lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'

# The stamps make a second run need no network: nothing is installed while these files are unchanged.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mpim_lab needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.12 lab"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' does not work; on Debian and Ubuntu: sudo apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml requirements.lock | $(BIN)/python
	@echo "Installing into $(VENV) (a minute or two, once) ..."
	$(LOCKED) hatchling editables
	$(LOCKED) --no-build-isolation -e '.[lab,test]'
	@$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" >/dev/null 2>&1 || true
	@touch $@

$(VENV)/.installed-all: $(VENV)/.installed
	$(LOCKED) --no-build-isolation -e '.[lab,test,check,browser,peers]'
	@touch $@

lab: $(VENV)/.installed ## open the lab in JupyterLab, on this machine only
	@echo "JupyterLab: http://127.0.0.1:$(PORT)/lab (the line below has the link with its token; Ctrl-C twice ends it)"
	@$(BIN)/mpim-lab copy
	$(BIN)/jupyter lab my_notebooks/00_start_here.ipynb --ip=127.0.0.1 --port=$(PORT) \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $$([ "$$(id -u)" = 0 ] && echo --allow-root) $(LAB_FLAGS)

test: $(VENV)/.installed ## unit, integration and notebook tests
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TESTS)
	MPIM_CHECK=quick $(BIN)/python -m pytest -q -n 3 --dist loadfile --nbval --nbval-cell-timeout=60 notebooks tests/notebooks

test-redis: $(VENV)/.installed ## the tests of the embedded Valkey again, on redis-server
	MPIM_TEST_SERVERS=redis $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(TESTS)

check: $(VENV)/.installed-all ## ruff, strict mypy, and which way imports go
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

browser: $(VENV)/.installed-all ## chapters 1 to 8 in a real JupyterLab in a real browser (needs Chromium)
	MPIM_CHECK=quick $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/browser $(TESTS)

# What must come out the same each time, and other seeds: so often. `make test` does it once.
REPEATS ?= 5
load: $(VENV)/.installed-all ## the long runs: a hundred repeats with one seed
	MPIM_CHECK=quick MPIM_TEST_SERVERS=valkey,redis $(BIN)/python -m pytest -q -n $(WORKERS) tests/load $(TESTS)
	MPIM_TEST_REPEATS=$(REPEATS) $(BIN)/python -m pytest -q -n $(WORKERS) tests/ch0*/test_experiment.py

challenges: $(VENV)/.installed ## every wrong and every right solution that is known, in full (a quarter of an hour)
	MPIM_TEST_THOROUGH=1 $(BIN)/python -m pytest -q -n $(WORKERS) tests/ch0*/test_challenges*.py $(TESTS)

mutants: $(VENV)/.installed ## one word changed in each reference: does its challenge notice? (hours; TESTS="ch03/do_it_once --from 40")
	$(BIN)/python -m tests.mutants $(TESTS)

# That tests pass is the business of `make test`: a tracer makes them slower, and some too slow.
COVERED ?= tests/package tests/ch0* tests/lab
coverage: $(VENV)/.installed-all ## which lines no test reaches
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest -q -p no:nbval -n $(WORKERS) $(COVERED)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# `make soak FROM=5001 COUNT=100000` goes on with the steps of later seeds; SERVER=redis-server: on that one.
FROM   ?= 1
COUNT  ?= 20000
SERVER ?=
soak: $(VENV)/.installed ## 1,000 random fault schedules, then 20,000 random steps over the public API (a quarter of an hour)
	$(BIN)/python -m mpim_lab.soak.runner --schedules 1000
	$(BIN)/python -m mpim_lab.soak.api.campaign --from $(FROM) --count $(COUNT) $(if $(SERVER),--server $(SERVER))

bench: $(VENV)/.installed-all ## how fast, beside the peers, on this machine
	$(BIN)/mpim-lab bench pubsub

notebooks: $(VENV)/.installed ## run every notebook and store its outputs
	$(BIN)/mpim-lab notebooks

lock: ## choose new versions for requirements.lock (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --upgrade --no-annotate --no-header \
	  --no-emit-index-url -q pyproject.toml -o requirements.lock

clean: ## remove the environment and everything made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
