# Everything a developer does, from a machine with Python 3.11 or newer and make. `make` lists it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
export PYTHONUNBUFFERED := 1

# The first Python that is new enough; `make PYTHON=... setup` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; exit; }; \
	done; echo python3)
BIN := .venv/bin
UV := $(PYTHON) dev/bootstrap/bootstrap.py uv
PACKAGES := prepaid-shared prepaid-dev prepaid-webhook-gateway prepaid-payments prepaid-ledger prepaid-recharge
DEFINITIONS := pyproject.toml shared/pyproject.toml dev/pyproject.toml $(wildcard services/*/pyproject.toml)
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
	$(addprefix --no-emit-package ,$(PACKAGES))
CODE := shared services dev deploy tests benchmarks conftest.py
# Extra arguments for pytest, the demo or the stack: make test ARGS="-k refund -x"
ARGS ?=
# Each test process has its own PostgreSQL and Kafka; the tests of one file run in one process.
TEST_PROCESSES ?= 2

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1mmake %-16s\033[0m %s\n", $$1, $$2}'

# One stamp for all targets: nothing is installed while the lock and the packages' definitions are unchanged.
.venv/.installed: requirements.lock dev/bootstrap/bootstrap.py dev/bootstrap/uv.txt $(DEFINITIONS)
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed and was not found: install it." >&2; exit 1; }
	@$(PYTHON) dev/bootstrap/bootstrap.py

.PHONY: setup
setup: .venv/.installed ## install everything into .venv and fetch Kafka; the other targets do it too
	@$(BIN)/python -m embedded fetch

.PHONY: demo
demo: .venv/.installed ## run the demo scenario on a real stack, then check the three invariants
	@$(BIN)/python -m demo $(ARGS)

.PHONY: up
up: .venv/.installed ## start everything, serve until Ctrl-C, and print requests to try
	@$(BIN)/python -m embedded up $(ARGS)

.PHONY: test
test: lint types contracts ## everything: format, lint, types, contracts, and all tests on real PostgreSQL and Kafka
	@echo "── tests, in $(TEST_PROCESSES) processes"
	@$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-containers
test-containers: .venv/.installed ## the service tests on containers: postgres:17 and apache/kafka:4.4.0
	@PREPAID_TEST_BACKEND=testcontainers $(BIN)/pytest shared/tests services $(ARGS)

.PHONY: compose-test
compose-test: .venv/.installed ## docker compose with the simulator: one purchase end to end, then everything removed
	@$(BIN)/python tests/compose/purchase.py

.PHONY: soak
soak: .venv/.installed ## the long fault runs, in full
	@PREPAID_SOAK=full $(BIN)/pytest -m soak --timeout=3600 $(ARGS)

.PHONY: bench
bench: .venv/.installed ## run the benchmarks; prints a table and writes build/bench.json
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lint
lint: .venv/.installed ## format and lint, without changing anything
	@echo "── format and lint"
	@$(BIN)/ruff format --quiet --check $(wildcard $(CODE)) || { echo "Run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet $(wildcard $(CODE))

.PHONY: format
format: .venv/.installed ## format and fix what can be fixed
	@$(BIN)/ruff format $(wildcard $(CODE))
	@$(BIN)/ruff check --fix $(wildcard $(CODE))

.PHONY: types
types: .venv/.installed ## check types, strictly
	@echo "── types"
	@$(BIN)/basedpyright

.PHONY: contracts
contracts: .venv/.installed ## import contracts: which module may import which
	@echo "── import contracts"
	@$(BIN)/lint-imports --no-cache

.PHONY: lock
lock: ## resolve all dependencies anew and pin them with hashes (ARGS=--upgrade for newer ones)
	@$(COMPILE) --group dev pyproject.toml --output-file requirements.lock $(ARGS)
	@$(COMPILE) pyproject.toml --output-file services.lock $(ARGS)
	@$(MAKE) .venv/.installed
	@$(BIN)/python -m embedded lock-kafka

.PHONY: clean
clean: ## remove the environment, caches, logs and data of `make up`
	@rm -rf .venv .cache build .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
