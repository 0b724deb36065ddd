# On a fresh Debian with Python 3.11: `make demo` and `make test` do all the set-up by themselves.
.POSIX:
.PHONY: help demo test soak bench lint fmt lock clean tools

BIN = .venv/bin
WORKERS = 3
MINUTES = 10
ROUNDS = 3
SCALE = 1
COMPILE = pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml

help:
	@echo 'make demo   show it at work: servers, sample files, a stream of views, files that move'
	@echo 'make test   lint, types, import rules, all tests (WORKERS=3 at a time, PYTEST="-k name" for some)'
	@echo 'make soak   two of each service under a random fault every second, then the oracle (MINUTES=10, SEED=7)'
	@echo 'make bench  measure it beside rivals and limits, write docs/performance.md (ONLY=ingest, ROUNDS=3, SCALE=0.05)'
	@echo 'make lint   lint, types, import rules'
	@echo 'make fmt    format the code'
	@echo 'make lock   bring the lock files in line with pyproject.toml (UPGRADE=--upgrade: newest of everything)'
	@echo 'make clean  remove what can be made again; the data in .reshelve stays'

demo:
	@deploy/bootstrap.sh demo
	@$(BIN)/reshelve demo $(DEMO)

# The tests in containers share stacks: one after another. 5 means that PYTEST left none over.
test:
	@deploy/bootstrap.sh test
	@$(MAKE) lint
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not containers" $(PYTEST) || [ $$? -eq 5 ]
	$(BIN)/pytest -m containers $(PYTEST) || [ $$? -eq 5 ]

soak:
	@deploy/bootstrap.sh test
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $${SEED:+--seed $$SEED}

# BENCH=--check prints and writes nothing.
bench:
	@deploy/bootstrap.sh bench
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS) --scale $(SCALE) $${ONLY:+--only "$$ONLY"} $(BENCH)

lint: tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: tools
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

# The running system has the packages that the tests saw: the second file is held to the first.
lock:
	uv=$$(command -v uv || echo .uv/bin/uv); \
	"$$uv" $(COMPILE) $(UPGRADE) -o requirements.lock && \
	"$$uv" $(COMPILE) $(UPGRADE) -c requirements.lock --extra embedded --group dev -o requirements-dev.lock

clean:
	rm -rf .venv .uv .prometheus .rivals .rivals-arq .bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

tools:
	@deploy/bootstrap.sh tools
