# `make demo` and `make test` need nothing but Python 3.11 or newer; both install into .venv first.

PYTHON ?= $(firstword $(foreach v,python3 python3.13 python3.12 python3.11 python,\
	$(if $(shell $(v) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(v))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One worker more than cores, because tests often wait for processes that they start.
PYTEST := $(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist worksteal
SYMLINKS := partition engine proto

.PHONY: help demo test test-all check docs format proto clean

help:
	@echo "make demo      train a GCN on Cora with two workers, and predict"
	@echo "make test      run the tests"
	@echo "make test-all  run the slow tests, too"
	@echo "make check     lint, format check, types, spelling, symlinks"
	@echo "make docs      build the documentation site into site/"
	@echo "make format    format the code, and fix what can be fixed"
	@echo "make proto     write the stubs of proto/ anew"
	@echo "make clean     remove what these commands made"

# Three stamps: the demo needs neither test tools nor the peers, and the tests need no site generator.
# A stamp is renewed when pyproject.toml or constraints.txt has changed.
$(VENV)/.created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: expected Python 3.11 or newer, found none. Install it, or run: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	}
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP) -e '.[mpi]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Installing into $(VENV); the first time takes some minutes."
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP) -e '.[docs]'
	@touch $@

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/graphtheta partition cora demo/store --parts 2 --method kaminpar
	$(BIN)/mpiexec -n 2 $(BIN)/graphtheta train demo/store --model gcn --epochs 200 \
		--run-dir demo/run
	$(BIN)/mpiexec -n 2 $(BIN)/graphtheta predict demo/run demo/store --out demo/predictions

test: $(VENV)/.installed-dev
	$(PYTEST) -m 'not slow'

test-all: $(VENV)/.installed-dev
	$(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	@for name in $(SYMLINKS); do \
		if [ "$$(readlink graphtheta/$$name)" != "../$$name" ]; then \
			echo "graphtheta/$$name: expected a symbolic link to ../$$name. Check out with symlinks." >&2; \
			exit 1; \
		fi; \
	done

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.installed-dev
	$(BIN)/python -m grpc_tools.protoc -Igraphtheta/proto=proto \
		--python_out=. --pyi_out=. --grpc_python_out=. proto/v1/*.proto

clean:
	rm -rf $(VENV) demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
