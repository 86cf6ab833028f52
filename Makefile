# Makefile: the few commands of this project; `make help` lists them. All but `help` set the project up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench mutants clean

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## virtual environment in .venv with pinned versions; does nothing when up to date

$(STAMP): pyproject.toml constraints.txt
	@for python in "$(PYTHON)" python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			found="$$python"; break; \
		fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "Runnel needs Python 3.11, 3.12 or 3.13; neither '$(PYTHON)' nor python3.11 to python3.13 is one." >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if ! "$(BIN)/python" -c '' 2>/dev/null; then \
		echo "Setting up $(VENV) with $$($$found --version) (a few minutes the first time)"; \
		"$$found" -m venv --clear "$(VENV)"; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## the whole system with simulated users and a live panel; Ctrl-C stops it
	$(BIN)/python -m runnel up --demo

# In their order, not the files of most tests first: those of few are the long ones, and none should begin last.
test: setup  ## every test, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup  ## linter, formatter, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## let the formatter and the linter repair what they can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Not those that take hours (chaos, soak) or want a system that runs already (skip_moments).
bench: setup  ## every benchmark: a table each, and JSON under out/
	@mkdir -p out
	@for file in $$(grep -l '"--json"' benchmarks/*.py | grep -v -e chaos -e soak -e skip_moments); do \
		name=$$(basename $$file .py); echo "== $$name"; \
		$(BIN)/python -m benchmarks.$$name --json out/$$name.json || exit 1; \
	done

mutants: setup  ## break the code in named ways and see the tests fail
	$(BIN)/python tests/mutants.py

clean:  ## remove caches and build files (not .venv, not any home)
	rm -rf build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
