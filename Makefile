# Every target takes its options as variables: make figures STUDY=camvid ONLY="03 04" JOBS=2 PARAMS="images=50"
PYTHON ?= python3
STUDY  ?=
JOBS   ?= 2
ONLY   ?=
PARAMS ?=
CAMVID ?=
LOCK   ?=

BIN   := .venv/bin
# What installs the lock, and what builds pydensecrf2 (see pyproject.toml).
TOOLS := uv==0.13.9 cython==3.3.1 setuptools==84.2.1
READY := .venv/.ready
TESTS := $(BIN)/python -m pytest -q -n 2 --dist loadscope
# Two test processes on few cores: one thread each. What a checked notebook draws must not replace the committed figures.
BATCH := OMP_NUM_THREADS=1 TQDM_DISABLE=1 GPCORE_FIGURES="$(CURDIR)/build/nbval/figures"
# glibc then keeps freed memory for the next tensors, which saves a tenth of the time.
BATCH += MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=2147483647

.DEFAULT_GOAL := help
.PHONY: help setup figures notebooks lab train data test lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the locked packages (3 minutes, once)

$(READY): requirements.lock pyproject.toml
	@echo "Setting up .venv: a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TOOLS)
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

figures: $(READY) ## run the notebooks, redraw figures/STUDY  [STUDY=camvid ONLY="03 04" JOBS=2 PARAMS="name=value"]
	@$(BIN)/python -m gpcore.companion.reproduce $(if $(STUDY),--study $(STUDY)) --jobs $(JOBS) $(if $(ONLY),--only $(ONLY)) $(if $(PARAMS),-p $(PARAMS))

notebooks: $(READY) ## as figures, and write outputs into notebooks/, tables into the README  [ONLY JOBS]
	$(BIN)/python -m gpcore.companion.reproduce --record --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))
	$(BIN)/python -m gpcore.companion.report.readme

lab: $(READY) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

train: $(READY) ## train the networks of a study again  [STUDY=digits]
	$(BIN)/python -m gpcore.companion.training $(or $(STUDY),digits)
	$(if $(filter digits,$(or $(STUDY),digits)),$(BIN)/python -m gpcore.companion.experiments.instances_training)

data: $(READY) ## fetch real data; CAMVID=/your/copy uses your own
	$(BIN)/python -m gpcore.datasets.fetch $(if $(CAMVID),--from "$(CAMVID)")

test: $(READY) ## lint, types, unit tests, notebook contract, then every committed output against a fresh run
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy gpcore
	$(BATCH) $(TESTS) -p no:nbval
	$(BATCH) $(TESTS) --nbval --nbval-current-env --nbval-cell-timeout=600 notebooks

lock: $(READY) ## pin requirements.lock afresh from pyproject.toml  [LOCK=--upgrade]
	$(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file requirements.lock $(LOCK)

clean: ## remove build/ and caches; keeps .venv, data and figures
	rm -rf build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find gpcore tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
