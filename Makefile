# gdiff: `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Where prepared TFDS data sets lie, for the targets that use real data.
DATA ?= $(HOME)/tensorflow_datasets
# Further overrides: make sample ARGS="dataset=moons sampler=ancestral"
ARGS ?=
# For make bundle: Python of the other machine, and packages that it has already.
BUNDLE_PYTHON ?= 3.12
BUNDLE_WITHOUT ?=
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)

.DEFAULT_GOAL := help
.PHONY: help install sample sweep data info test test-slow test-gpu lint format docs schedule bench compare table bundle clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## create .venv with gdiff and everything that the targets need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("gdiff needs Python 3.11 or newer, for example: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

sample: install ## the default job: 64 samples of the digits, into outputs/
	$(BIN)/gdiff sample $(ARGS)

sweep: install ## two samplers with two numbers of steps, and a table of the four runs
	$(BIN)/gdiff sample -m dataset=moons sampler=ddim,ancestral schedule.steps=10,50 $(ARGS)

data: install ## what data sets are ready in DATA
	$(BIN)/gdiff data list --data-dir $(DATA)

info: install ## versions, devices and folders
	$(BIN)/gdiff info

test: install ## all tests but the slow ones
	$(BIN)/python -m pytest -m 'not slow and not gpu' -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: install ## the slow tests
	$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-gpu: install ## the tests for a GPU; with GDIFF_TEST_GPU=cpu on the CPU
	JAX_PLATFORMS= $(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

lint: install ## the linter and the formatter, without changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## the documentation as a site, in site/, which opens from the folder
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python scripts/configuration_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo site/index.html

schedule: install ## grids on the default data, by the divergence that they cost
	$(BIN)/gdiff schedule $(ARGS)

bench: install ## the score against a plain matrix product, on CIFAR-10 in DATA
	$(BIN)/gdiff bench dataset=cifar10 dataset.data_dir=$(DATA) $(ARGS)

compare: install ## scores against the full scan, step by step, on CIFAR-10 in DATA
	$(BIN)/gdiff bench score=full,golden,golddiff dataset=cifar10 dataset.data_dir=$(DATA) $(ARGS)

table: install ## the comparison of arXiv 2602.16498 on CIFAR-10 in DATA (hours on a CPU)
	$(BIN)/python scripts/golddiff_table.py dataset=cifar10 dataset.data_dir=$(DATA) $(ARGS)

bundle: install ## wheels for a machine with jax and without a network, into dist/bundle
	$(BIN)/python scripts/bundle.py --python $(BUNDLE_PYTHON) --without $(BUNDLE_WITHOUT)

clean: ## remove .venv and caches; outputs stay
	rm -rf $(VENV) .pytest_cache .ruff_cache dist site
	find gdiff tests scripts -name __pycache__ -type d -exec rm -rf {} +
