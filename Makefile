# Two commands do everything: `make demo` and `make test`. `make` alone lists the rest.
# PYTHON=/path/to/python3.12 chooses the interpreter; ARGS="-k sheet" goes to pytest.

BIN := .venv/bin
CHECKS := check-format check-lint check-types check-layers check-docs

.PHONY: help demo test setup dev check $(CHECKS) format docs bench clients matrix constraints clean
.DEFAULT_GOAL := help

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: setup ## compare the models in the box and say where the contact sheet is
	@tools/demo.sh

test: dev ## run every test this machine allows; name what was skipped and why
	@$(BIN)/pytest -n auto $(ARGS)

setup: .venv/.setup ## make .venv with .venv/bin/imagen
dev: .venv/.dev ## the same, and what the tests and checks need

check: dev ## format, lint, types, layers and docs drift, side by side
	@$(MAKE) --no-print-directory --keep-going --output-sync=target --jobs=3 $(CHECKS) && echo "all checks passed"

check-types:
	@$(BIN)/mypy
check-layers:
	@$(BIN)/lint-imports --no-logo > .venv/layers.log || { cat .venv/layers.log; exit 1; }
check-docs:
	@$(BIN)/python -m tools.reference --check
check-lint:
	@$(BIN)/ruff check
check-format:
	@$(BIN)/ruff format --check --diff --quiet

format: dev ## bring the code into shape
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

docs: dev ## write docs/reference from the code
	@$(BIN)/python -m tools.reference

bench: dev ## run every benchmark; each prints its figure and its budget
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clients: dev ## install programs of others, 1.1 GiB, that some tests run against us
	@tools/clients.sh

matrix: dev ## replay what clients send and write docs/reference/clients.md
	@$(BIN)/python -m tools.clients

constraints: dev ## pin the versions installed here
	@$(BIN)/python tools/constraints.py > constraints.txt.new && mv constraints.txt.new constraints.txt

clean: ## remove .venv, caches and the demo
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache demo dist

# The stamps make a second run need no network. Only a change to what is installed renews them.
.venv/.setup: pyproject.toml constraints.txt tools/venv.sh
	@tools/venv.sh '.[hub]'
	@touch $@
.venv/.dev: pyproject.toml constraints.txt tools/venv.sh
	@tools/venv.sh '.[dev]'
	@touch .venv/.setup $@
