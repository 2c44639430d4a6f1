# make train   sets up .venv, trains a small GPT on the embedded Shakespeare, draws its curves, prints three passages
# make test    sets up .venv, passes the tests
# make help    the rest

VENV ?= .venv
EXTRAS ?= test,plots
WORKDIR ?= runs/shakespeare
WORKERS ?= 2
PYTEST ?=
export VENV EXTRAS PYTHON

RUN := $(VENV)/bin/python
# Compiled programs are kept between test runs; the small ones, too.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.jax_cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
TESTS := $(CACHE) $(RUN) -m pytest -n $(WORKERS) --dist worksteal --durations=15

.PHONY: help setup train test test-long lint format clean

help:
	@echo "make train      set up, train configs/shakespeare.py into $(WORKDIR): metrics, curves.png, three passages"
	@echo "make test       set up, run the tests"
	@echo "make test-long  set up, run the tests marked slow and chaos"
	@echo "make setup      build or refresh $(VENV); PYTHON=python3.12 picks the interpreter, EXTRAS=$(EXTRAS) the extras"
	@echo "make lint       check the style; make format fixes what a tool can fix"
	@echo "make clean      remove $(VENV), the compilation cache and what the tests left; runs/ stays"

setup:
	@sh scripts/setup.sh

train: setup
	$(RUN) -m train --config=configs/shakespeare.py --workdir=$(WORKDIR)

test: setup
	$(TESTS) -m "not slow and not chaos" $(PYTEST)

# No test being marked is not a failure (pytest then exits 5).
test-long: setup
	$(TESTS) -m "slow or chaos" $(PYTEST) || test $$? = 5

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: setup
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) .jax_cache .pytest_cache .ruff_cache build *.egg-info
