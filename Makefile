# `make` lists the targets. Every target prepares what it needs; a second run is quick.

.DEFAULT_GOAL := help
.PHONY: help demo test chaos bench lint docs clean rabbitmq systemd prometheus chromium clients golang rivals
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# BROKER=4 (or 3) runs everything on that version of RabbitMQ. If this machine has another version, a Debian tree in a
# cache folder is used.
export MXWORKER_TEST_RABBITMQ := $(or $(BROKER),$(MXWORKER_TEST_RABBITMQ))

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## Run two workers on the embedded broker, send them 10,000 orders, show a summary (BROKER=4: on RabbitMQ 4)
ifeq ($(MXWORKER_TEST_RABBITMQ)$(MXWORKER_TEST_BROKER_URL),)
	@$(BIN)/python -m handlers_example.demo
else
	@$(MAKE) rabbitmq
	@$(BIN)/python -m tests.rabbit -- $(BIN)/python -m handlers_example.demo
endif

test: $(READY) ## Check style and types, then run all tests, those of guarantees at a tenth of their size (BROKER=4: on RabbitMQ 4)
	@$(MAKE) lint || { echo "make test: style or types are wrong, see above; no test was run ('make lint' repeats this)." >&2; exit 1; }
	@$(MAKE) rabbitmq systemd prometheus
	@$(BIN)/python -m pytest -n 4 --dist loadfile -m "not alone"; code=$$?; \
		$(BIN)/python -m pytest -m alone $$(grep -rl --include='test_*.py' 'mark\.alone' tests) && exit $$code

chaos: $(READY) rabbitmq systemd prometheus chromium clients ## Run the fault and guarantee tests in full (long)
	@$(BIN)/python -m pytest tests/chaos tests/broker tests/fork --full

bench: $(VENV)/bench rabbitmq rivals ## Measure mxworker beside other clients (NAME=consume: only what starts so; ARGS=--help: more)
	@$(BIN)/python -m bench $(NAME) $(ARGS)

lint: $(READY) ## Check style, formatting and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

docs: $(READY) ## Write the pages of docs/reference that are made from the code
	@$(BIN)/python -m docs.generators

clean: ## Remove the files that other targets made in this folder
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment with mxworker (editable) and its tools. It is remade only when pyproject.toml changes.
# Debian has ensurepip in a separate package. pip reads dependency groups since 25.1.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "mxworker needs Python 3.11 or newer; name one with 'make PYTHON=...'." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		tests/apt-install.sh $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	@echo "Preparing $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

# Without matplotlib a benchmark draws no pictures.
$(VENV)/bench: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench && touch $@ || \
		echo "matplotlib cannot be installed, so no pictures will be drawn." >&2

# If RabbitMQ may not be installed, `test` and `chaos` say which tests they skip, and `bench` says what is
# missing. A version that BROKER asks for is never skipped: without it they fail.
rabbitmq:
ifneq ($(MXWORKER_TEST_RABBITMQ),)
	@tests/debian-tree.sh $(MXWORKER_TEST_RABBITMQ)
else
	@test -n "$$MXWORKER_TEST_BROKER_URL" || PATH="$$PATH:/usr/sbin" command -v rabbitmq-server >/dev/null || \
		tests/apt-install.sh rabbitmq-server rabbitmq-server.service epmd.socket epmd.service || true
endif

# The tests check the units with systemd-analyze. No part of systemd runs; without it those tests are skipped.
systemd:
	@command -v systemd-analyze >/dev/null || tests/apt-install.sh systemd || true

# The tests check metrics and alert rules with promtool, and `chaos` runs Prometheus. Without them those tests are skipped.
prometheus:
	@command -v promtool >/dev/null || tests/apt-install.sh prometheus prometheus.service || true

# Tests look at the status page with a browser. `test` does so where there is one, as it takes half a minute to install.
chromium:
	@command -v chromium >/dev/null || { tests/apt-install.sh fonts-dejavu-core && tests/apt-install.sh chromium; } || true

# Clients in Go and JavaScript are tested on the embedded broker. Without their languages those tests are skipped.
clients: golang
	@command -v npm >/dev/null || tests/apt-install.sh npm || true

golang:
	@test -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go || tests/apt-install.sh golang-github-rabbitmq-amqp091-go-dev || true
	@command -v go >/dev/null || tests/apt-install.sh golang-go || true

# The clients in Go and C that `bench` compares with; it says which is missing.
rivals: golang
	@command -v cc >/dev/null || { tests/apt-install.sh libc6-dev && tests/apt-install.sh gcc; } || true
	@test -e /usr/include/amqp.h || tests/apt-install.sh librabbitmq-dev || true
