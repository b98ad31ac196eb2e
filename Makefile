# Everything here needs nothing but python3 (3.11 or newer) and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
COMPILED := build/compiled
CODE   := gateway workers tests policies deploy docs requirements .ci
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
SECONDS ?= 1800

.DEFAULT_GOAL := help
.PHONY: help demo test check compiled chaos matrix limits kills attacks audit overload soak trace chart format bench profile schema lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: $(VENV)/.worker  ## worker and gateway on this machine, with a ready key (Ctrl-C stops both)
	@exec $(BIN)/gateway demo

test: $(COMPILED)/.done  ## every test, in parallel; those of the hot path compiled, too, and without the edge
	$(BIN)/pytest -q
	cd $(COMPILED) && $(CURDIR)/$(BIN)/python -m pytest -q tests/pipeline tests/contract tests/accounting
	cd $(COMPILED) && $(CURDIR)/$(BIN)/python -m pytest -q tests/api --http asgi
	$(BIN)/python -m tests.bench.gate
	cd $(COMPILED) && $(CURDIR)/$(BIN)/python -m tests.bench.gate

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

bench: $(COMPILED)/.done  ## CPU per request of the compiled gateway against nginx, one table
	cd $(COMPILED) && $(CURDIR)/$(BIN)/python -m tests.bench

compiled: $(COMPILED)/.done  ## the same sources with their hot modules compiled, in build/compiled (needs a C compiler)

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
	uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header requirements/compiler.in -o requirements/compiler.txt
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

# Apart from the sources: a compiled module would be imported in place of a source that was changed after it.
$(COMPILED)/.done: $(VENV)/.dev setup.py pyproject.toml $(shell find $(CODE) -type f -not -path '*/node_modules/*' -not -name '*.pyc')
	@echo "compiling the hot modules into $(COMPILED) (about a minute)"
	@mkdir -p $(COMPILED) && find $(COMPILED) -mindepth 1 -maxdepth 1 -not -name .mypy_cache -exec rm -rf {} +
	@tar -c --exclude __pycache__ --exclude node_modules $(CODE) Makefile setup.py *.toml *.md | tar -x -C $(COMPILED)
	@if [ -d tests/contract/node/node_modules ]; then ln -s $(CURDIR)/tests/contract/node/node_modules $(COMPILED)/tests/contract/node/; fi
	@cd $(COMPILED) && GATEWAY_COMPILED=1 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace --parallel 2 > build.log 2>&1 \
	|| { grep -i error build.log || tail -20 build.log; exit 1; }
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
