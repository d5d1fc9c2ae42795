# Two commands matter: `make up` runs the mesh, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := telltale agent services gateway certs
# Passed on: make up ARGS="--for 30s"
ARGS ?=

.PHONY: up test fuzz chaos lifetimes bench system check format lint types imports protos protos-fresh lock audit clean

# Ctrl-C (130) is how a mesh is meant to end: no failure of make's.
up: $(VENV)/ready
	@trap : INT; $(BIN)/telltale up $(ARGS) || [ $$? -eq 130 ]

test: check system
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

# The same property tests of what strangers may send, with a million inputs: fails when they were fewer.
# TELLTALE_FUZZ_SEED=N, as a failure names it, runs the same ones again.
fuzz: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -p tests.fuzzing.counting --hypothesis-profile=fuzz --timeout=0 \
		tests/fuzzing tests/certs/test_fuzz.py tests/certs/test_wire_fuzz.py tests/certs/people/test_id_token_fuzz.py $(ARGS)

# Certificates and tokens of seconds under load, for ten minutes instead of one.
lifetimes: $(VENV)/ready
	TELLTALE_TEST_SECONDS=600 $(BIN)/pytest --timeout=0 tests/e2e/test_lifetimes.py $(ARGS)

# Figures, not tests: a table, and build/bench.json. One section: make bench ARGS="forwarding --seconds 10"
bench: $(VENV)/ready build/rotel/ready
	$(BIN)/python -m bench $(ARGS)

# What forwarding is held against; no dependency of ours.
build/rotel/ready: bench/requirements.txt $(VENV)/ready
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --no-deps --upgrade \
		--target build/rotel -r bench/requirements.txt
	@touch $@

# Kills, stalls and cuts off a real mesh under load, for minutes: make chaos ARGS="--kills 100 --seed 7".
chaos: $(VENV)/ready
	@$(BIN)/python -m tests.chaos $(ARGS)

# What the tests need and no wheel brings.
system:
	@sh tools/system.sh

check: $(VENV)/ready protos-fresh lint types imports

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf format --diff --exit-code

types: $(VENV)/ready
	$(BIN)/mypy

imports: $(VENV)/ready
	$(BIN)/lint-imports

protos: $(VENV)/ready
	$(BIN)/python -m tools.protos

protos-fresh: $(VENV)/ready
	$(BIN)/python -m tools.protos --check

# What everything is made of (build/sbom.json, CycloneDX), and what is known against it.
audit: $(VENV)/ready
	$(BIN)/python -m tools.audit

# Every dependency of every process, with hashes and without an index address.
lock: $(VENV)/ready
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --all-extras \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-header \
		--output-file requirements.txt pyproject.toml

$(VENV)/ready: requirements.txt pyproject.toml
	@echo "Setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .telltale build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
