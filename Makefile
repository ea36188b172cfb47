# Everything a bare machine needs is set up by the targets themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: tour test test-real lint types format benchmark clean

tour: $(VENV)/ready-demo
	$(BIN)/shammie fetch smollm2-135m
	$(BIN)/shammie tour --resume

test: $(VENV)/ready-test lint types
	$(BIN)/shammie fetch smollm2-135m
	$(PYTEST) -n 2 --dist worksteal -m "not real" --durations 25

test-real: $(VENV)/ready-test
	$(BIN)/shammie fetch smollm2-135m
	$(BIN)/shammie fetch gemma-3-270m
	$(PYTEST) -m real

lint: $(VENV)/ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-test
	$(BIN)/mypy

format: $(VENV)/ready-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/ready-bench
	$(BIN)/python benchmarks/core.py

# torch comes first and by its version: a plain requirement would bring gigabytes of GPU libraries.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/ready-torch: constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	touch $@

$(VENV)/ready-demo: pyproject.toml $(VENV)/ready-torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/ready-test: pyproject.toml $(VENV)/ready-torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,train,sekd,judge,serve,test]'
	touch $@

$(VENV)/ready-bench: pyproject.toml $(VENV)/ready-torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,train,sekd,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
