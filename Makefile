# bulksms: everything a developer runs. `make` alone prints this help.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

DISTRIBUTIONS := protos libs/servicekit libs/smstext libs/client libs/devstack \
	services/campaign services/dispatcher services/ledger services/dlr-gateway
EDITABLE := $(addprefix -e ,$(DISTRIBUTIONS))
PROJECT_FILES := pyproject.toml $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
# The protos as one descriptor, with their comments.
DESCRIPTOR := protos/stubs/contract.binpb
PROTO_FILES := $(shell find protos/bulksms -name '*.proto')
CLIENT := libs/client/src/bulksms_client

# Test processes; 2 suits the smallest machine this is run on.
WORKERS ?= 2
# What `make up` and `make demo` keep: data, logs, state.json.
FOLDER ?= .devstack
# What `make bench` measures; their options differ, so ARGS goes with one of them.
ONLY ?= ledger dispatcher gateway enqueue

.DEFAULT_GOAL := help
.PHONY: help setup stubs up down status trace demo test test-fast test-faults bench soak contract lint format clean

help: ## Print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed protos/stubs/.built $(CLIENT)/sync/__init__.py ## Make the virtual environment and install everything into it

$(VENV)/.installed: constraints.txt $(PROJECT_FILES)
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt --group build
	$(PIP) install --quiet --constraint constraints.txt --group dev --no-build-isolation $(EDITABLE)
	@touch protos/stubs/.built $@

protos/stubs/.built: $(PROTO_FILES) protos/hatch_build.py | $(VENV)/.installed
	@$(BIN)/python protos/hatch_build.py
	@touch $@

$(CLIENT)/sync/__init__.py: $(wildcard $(CLIENT)/aio/*.py) libs/client/hatch_build.py | $(VENV)/.installed
	@$(BIN)/python libs/client/hatch_build.py

stubs: setup ## Build the typed stubs and the blocking client again where their sources changed

up: setup ## Start the whole stack and keep it running until Ctrl-C or `make down`; DETACH=1 goes on in the background
	@$(BIN)/bulksms-devstack up --folder $(FOLDER) $(if $(DETACH),--detach)

down: setup ## Stop the stack of this checkout; remove the temporary folders of killed runs
	@$(BIN)/bulksms-devstack down --folder $(FOLDER)

status: setup ## Print what runs where
	@$(BIN)/bulksms-devstack status --folder $(FOLDER)

trace: setup ## Print a trace as a tree: make trace ID=<trace id>
	@$(BIN)/bulksms-devstack trace --folder $(FOLDER) $(ID)

demo: setup ## Send a real campaign on this machine, from a CSV to its delivery reports
	@$(BIN)/python -m devstack.demo

test: setup ## Run all tests (11 minutes on 2 cores); ARGS="-k name" narrows them
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'not faults' $(ARGS)

test-fast: setup ## Run the tests that need no process of their own; ARGS="services/ledger" narrows them
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'not (faults or slow or stack)' $(ARGS)

test-faults: setup ## Run the long fault suites (about an hour); tests/README.md has the FAULT_… variables that scale them
	$(BIN)/python -m pytest -m faults services $(ARGS)
	FAULT_KILLS=$${FAULT_KILLS:-200} FAULT_FREEZES=$${FAULT_FREEZES:-100} FAULT_CAMPAIGNS=$${FAULT_CAMPAIGNS:-50} \
	FAULT_OUTAGES=$${FAULT_OUTAGES:-10} FAULT_OUTAGE_SECONDS=$${FAULT_OUTAGE_SECONDS:-60} FAULT_ROLLS=$${FAULT_ROLLS:-20} \
		$(BIN)/python -m pytest -s tests/faults $(ARGS)

bench: setup ## Print figures as tables and JSON; ONLY="ledger dispatcher gateway enqueue" chooses, ARGS="--help" lists options
	@for one in $(ONLY); do $(BIN)/python -m benchmarks.$$one $(ARGS) || exit 1; done

soak: setup ## Send steadily for SOAK_MINUTES (30), then check that nothing was lost, sent twice, or kept growing
	$(BIN)/python -m benchmarks.soak --minutes $${SOAK_MINUTES:-30} $(ARGS)

contract: setup ## Accept the protos as they are: what `make lint` compares later ones with
	@$(BIN)/python protos/hatch_build.py protos/contract.binpb

lint: setup ## Check style, types, the contract and the direction of imports; print what breaks the contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/python protos/hatch_build.py $(DESCRIPTOR)
	$(BIN)/buf lint $(DESCRIPTOR) --config protos/buf.yaml --path bulksms
	$(BIN)/buf format --diff --exit-code protos
	@$(BIN)/buf breaking $(DESCRIPTOR) --against protos/contract.binpb --config protos/buf.yaml --path bulksms \
		|| echo "The contract breaks in the places above. It may until it is declared stable; \`make contract\` accepts them."
	$(BIN)/lint-imports

format: setup ## Format code and protos
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write protos

clean: ## Remove the virtual environment, what was built and the stack's data
	@if [ -x $(BIN)/bulksms-devstack ]; then $(BIN)/bulksms-devstack down --folder $(FOLDER) || true; fi
	rm -rf $(VENV) $(FOLDER) protos/stubs $(CLIENT)/sync
