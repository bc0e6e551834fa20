# `make demo` runs the main job, `make test` the checks and the tests; each does its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint format proto error-reference chest-comparison clean

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

error-reference: .stamps/dev
	$(BIN)/python -m tools.error_reference

clean:
	rm -rf $(VENV) .stamps
