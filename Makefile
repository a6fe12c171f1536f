# `make table4` and `make test` set up everything they need. Python 3.11 or 3.12 is all that must be there.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
DATA := runs/data/fashion-mnist/train-images-idx3-ubyte

export STAR_HOME := runs

.PHONY: help table4 test check data env clean

help:
	@echo 'make table4   set up, fetch Fashion-MNIST, run experiments/table4.yaml, write reports/table4'
	@echo 'make test     set up, fetch Fashion-MNIST, check the code, run the tests'
	@echo 'make clean    remove the environment and everything computed (runs/)'

table4: $(DATA)
	$(BIN)/star-exp run experiments/table4.yaml

test: $(DATA) check
	$(BIN)/pytest -n 2 --dist loadfile

check: env
	$(BIN)/ruff check star tests
	$(BIN)/ruff format --check star tests
	$(BIN)/lint-imports
	$(BIN)/mypy

data: $(DATA)

env: .venv/ready

$(DATA): | .venv/ready
	$(BIN)/star-exp data fetch fashion-mnist

# the lock names exact versions; torch's is the same line for the CPU and the CUDA build
.venv/ready: requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or 3.12 is needed: install one, or name it with `make PYTHON=/path/to/python3.12 ...`'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv runs
