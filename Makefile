# On a fresh machine `make serve` and `make test` need Python 3.11 or newer with venv, nothing else.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# The peers that Ferrule is measured beside have an environment of their own.
BENCH := .venv-bench
# Of the environment whose stamp is being made.
PIP = $(@D)/bin/python -m pip --disable-pip-version-check install --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help setup serve test test-external check bench bench-quick clean lock
.DEFAULT_GOAL := help

help:
	@echo "make serve          run the server          (ARGS='--port 9000' is passed on)"
	@echo "make test           run the tests           (ARGS='-k items' is passed on)"
	@echo "make test-external  run the tests that need Chromium, nginx or other programs"
	@echo "make check          format, lint, types, import order, exports, docs"
	@echo "make bench          measure Ferrule beside its peers, in 45 minutes (ARGS='--only sqlite' is passed on)"
	@echo "make bench-quick    the same in two minutes, beside the floor and FastAPI alone"
	@echo "make setup          only make $(VENV)"
	@echo "make lock           renew requirements/*.txt (ARGS=--upgrade for newer versions)"
	@echo "make clean          remove $(VENV), $(BENCH), caches and build output; data stays"

setup: $(VENV)/.runtime

serve: $(VENV)/.runtime
	@$(BIN)/ferrule serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 -m "not external and not drill" $(ARGS)

test-external: $(VENV)/.dev
	FERRULE_TEST_REQUIRE=all $(BIN)/pytest -m external $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/pytest tests/test_architecture.py tests/test_exports.py tests/test_docs.py

bench: $(BENCH)/.peers
	$(BENCH)/bin/python -m benchmarks $(ARGS)

bench-quick: $(BENCH)/.peers
	$(BENCH)/bin/python -m benchmarks --quick $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH) build dist .pytest_cache .ruff_cache .hypothesis .schemathesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Each lock is held to by the next, so that all of them fit into one environment.
lock: $(VENV)/.dev
	$(COMPILE) $(ARGS) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) $(ARGS) requirements/build.in -c requirements/runtime.txt -o requirements/build.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra testing requirements/build.in requirements/dev.in \
		-c requirements/runtime.txt -c requirements/build.txt -o requirements/dev.txt
	$(COMPILE) $(ARGS) pyproject.toml requirements/build.in requirements/bench.in \
		-c requirements/runtime.txt -c requirements/build.txt -c requirements/dev.txt -o requirements/bench.txt

# The stamps come last, so that a step which was interrupted is done again.
$(VENV)/.made $(BENCH)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Ferrule needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "'$(PYTHON)' has no venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(@D); this is done once."
	@$(PYTHON) -m venv --clear $(@D)
	@echo '*' > $(@D)/.gitignore
	@touch $@

$(VENV)/.runtime: $(VENV)/.made pyproject.toml requirements/build.txt requirements/runtime.txt
	@$(PIP) --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(BENCH)/.peers: $(BENCH)/.made pyproject.toml requirements/bench.txt
	@$(PIP) --require-hashes -r requirements/bench.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@
