# Everything here needs nothing but python3 (3.11 or newer) and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
SECONDS ?= 1800

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos matrix limits kills attacks audit overload soak trace chart format bench profile schema lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(VENV)/.worker  ## worker and gateway on this machine, with a ready key (Ctrl-C stops both)
	@exec $(BIN)/gateway demo

test: $(VENV)/.dev  ## every test, in parallel
	$(BIN)/pytest -q
	$(BIN)/pytest -q tests/api --http asgi
	$(BIN)/python -m tests.bench.gate

check: $(VENV)/.dev  ## format, lint, types, import contracts, schema freshness
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/gateway schema --check policies/policy.schema.json
	$(BIN)/gateway check policies

limits: $(VENV)/.dev  ## what the limits promise, measured on real gateways over a real Redis
	$(BIN)/python -m tests.limits

chaos: $(VENV)/.dev  ## every fault of the catalogue, one table: fault, variant, outcome
	GATEWAY_CHAOS_AT_ONCE=200 $(BIN)/python -m tests.chaos

matrix: $(VENV)/.dev  ## every way of asking over every dialect, one table: feature, served or refused
	$(BIN)/python -m tests.matrix

kills: $(VENV)/.dev  ## 200 kills of a gateway under load: nothing lost, nothing doubled
	GATEWAY_KILLS=200 $(BIN)/pytest -q -n 0 tests/accounting/test_killed_gateway.py

format: $(VENV)/.dev  ## rewrite the sources as `check` wants them
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## CPU per request against nginx and others, memory, start, tracing, Redis
	$(BIN)/python -m tests.bench

profile: $(VENV)/.dev  ## where a request's microseconds go in the gateway, by layer
	$(BIN)/python -m tests.bench.layers

attacks: $(VENV)/.dev  ## what someone who wishes us harm sends, one table: row, inputs, harm done
	$(BIN)/python -m tests.attacks

audit: $(VENV)-audit/.done  ## known weaknesses of what is locked (asks PyPI for its advisories, which mirrors rarely have)
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/clouds.txt
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/dev.txt

overload: $(VENV)/.dev  ## ten times the load that can be served: what still comes of it, one table
	$(BIN)/python -m tests.overload

soak: $(VENV)/.dev  ## everything at once for half an hour (SECONDS=60: a minute), and what grew
	$(BIN)/python -m tests.soak --seconds $(SECONDS)

trace: $(VENV)/.dev  ## one request that a worker rescues, as one trace; in Jaeger where JAEGER_BIN or JAEGER_QUERY_URL names it
	$(BIN)/python -m tests.telemetry.rescue

chart: $(VENV)/.dev  ## render the Helm chart for its tests (needs helm)
	$(BIN)/python -m tests.deploy.chart

schema: $(VENV)/.dev  ## rewrite policies/policy.schema.json
	$(BIN)/gateway schema > policies/policy.schema.json

lock:  ## resolve the dependencies anew (needs uv); no index address is written
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header requirements/build.in -o requirements/build.txt
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header requirements/audit.in -o requirements/audit.txt
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements/base.txt
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml --extra aws --extra azure --extra google --extra oci -o requirements/clouds.txt
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml --extra worker -o requirements/worker.txt
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header pyproject.toml --extra worker --extra dev -o requirements/dev.txt

clean:  ## remove what make made (not the model cache in your home)
	rm -rf $(VENV) $(VENV)-audit .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; " + sys.executable + " is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.worker: requirements/worker.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies into $(VENV) (about a minute the first time)"
	$(PIP) install --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/worker.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)-audit/.done: requirements/audit.txt
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --only-binary :all: -r requirements/audit.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies into $(VENV) (about a minute the first time)"
	$(PIP) install --require-hashes --only-binary :all: -r requirements/build.txt -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@{ command -v npm && npm ci --silent --ignore-scripts --no-audit --no-fund --prefix tests/contract/node; } >/dev/null 2>&1 \
	|| echo "no official clients for Node here (npm ci failed, or there is no npm): their tests will be skipped"
	@touch $@ $(VENV)/.worker
