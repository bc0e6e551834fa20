# `make demo` runs the main job, `make test` the checks and the tests; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint format proto error-reference chest-comparison fuzz schedules mutants threat-page model bench bench-peers clean

.stamps/venv:
	$(PYTHON) -m venv $(VENV)
	@mkdir -p .stamps && touch $@

# torch goes first: the pin in constraints.txt must be met before another package asks for torch loosely.
.stamps/node: .stamps/venv pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install --quiet -c constraints.txt -e ".[node]"
	@touch $@

.stamps/dev: .stamps/node
	$(PIP) install --quiet -c constraints.txt -e ".[all,dev]"
	@touch $@

demo: .stamps/node
	$(BIN)/fedvlm demo $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

lint: .stamps/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .stamps/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated code is checked in; a test regenerates it and compares.
proto: .stamps/dev
	$(BIN)/python -m grpc_tools.protoc -Ifedvlm_secure/wire/generated=proto --python_out=. --pyi_out=. proto/fedvlm.proto

# Federated against local-only, pooled and majority on three real institutions; DATA and PUBLIC name the packs.
chest-comparison: .stamps/node
	$(BIN)/python benchmarks/chest_comparison.py $(ARGS)

# Coverage-guided fuzzing of every decoder and handler; SECONDS per target, ARGS may name targets.
SECONDS ?= 300
.stamps/fuzz: .stamps/dev
	$(PIP) install --quiet -c constraints.txt -e ".[all,dev,fuzz]"
	@touch $@

fuzz: .stamps/fuzz
	$(BIN)/python -m tools.fuzz --seconds $(SECONDS) $(ARGS)

# 5,000 random schedules of crashes and bad networks instead of the 200 of `make test`.
schedules: .stamps/dev
	FEDVLM_SCHEDULES=5000 $(BIN)/python -m pytest tests/rounds/test_schedules.py --timeout 3600 $(ARGS)

# Takes each guard out in turn and asks for a red test (docs/threats.md); ARGS="--only A6" for some.
mutants: .stamps/dev
	$(BIN)/python -m tools.mutants $(ARGS)

threat-page: .stamps/dev
	$(BIN)/python -m tools.threat_page

# Needs spin and gcc (apt-get install spin gcc); minutes, under 1 GB for each search.
model:
	$(PYTHON) proto/model/check.py $(ARGS)

# Peers live in environments of their own: their pins do not agree with ours.
.stamps/bench-peers: .stamps/dev benchmarks/peers.py benchmarks/he_stages.py
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.he_stages --make
	@touch $@

bench-peers: .stamps/bench-peers

bench: .stamps/bench-peers
	$(BIN)/python -m benchmarks.run $(ARGS)

error-reference: .stamps/dev
	$(BIN)/python -m tools.error_reference

clean:
	rm -rf $(VENV) .stamps .bench-peers
