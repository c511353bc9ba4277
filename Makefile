# Everything runs from a fresh clone with Python 3.11 or later, make and git: `make train`, `make test`, `make help`.

PYTHON ?= python3
# Exact versions; those with jax 0.11, for Python 3.12 or later, are in constraints-jax-0.11.txt.
CONSTRAINTS ?= constraints.txt
VENV := .venv$(patsubst constraints%.txt,%,$(notdir $(CONSTRAINTS)))
BIN := $(VENV)/bin

# The user's files, or the carried sample. Naming TRAIN_EFD replaces all of the sample: no split is mixed with it.
ifeq ($(origin TRAIN_EFD),undefined)
TRAIN_EFD := $(wildcard shared/sample/*-efd-train.npz)
TRAIN_ESP := $(wildcard shared/sample/*-esp-train.npz)
VALID_EFD := $(wildcard shared/sample/*-efd-valid.npz)
VALID_ESP := $(wildcard shared/sample/*-esp-valid.npz)
TEST_EFD := $(wildcard shared/sample/*-efd-test.npz)
TEST_ESP := $(wildcard shared/sample/*-esp-test.npz)
endif

# For the shell: a value with blanks, quotes or brackets is quoted, unless it came quoted. Of several files each is, by
# the user; a single one with blanks, which exists, is here.
bracket := (
escaped = '$(subst ','\'',$(1))'
came_quoted = $(and $(filter '% "%,$(firstword $(1))),$(filter %' %",$(lastword $(1))))
special = $(word 2,$(1))$(findstring ',$(1))$(findstring ",$(1))$(findstring $(bracket),$(1))$(findstring &,$(1))
quoted = $(if $(call came_quoted,$(1)),$(1),$(if $(call special,$(1)),$(call escaped,$(1)),$(1)))
exists = $(shell test -e $(call escaped,$(1)) && echo yes)
files = $(if $(word 2,$(1)),$(if $(call exists,$(1)),$(call escaped,$(1)),$(1)),$(call quoted,$(1)))
flag = $(if $(2),$(1) $(call quoted,$(2)))

# DATA: files that are divided among the splits here, instead of files for each split.
FILES = $(if $(DATA),--data $(call files,$(DATA)) $(if $(GRIDS),--grids $(call files,$(GRIDS))), \
	--train-efd $(call files,$(TRAIN_EFD)) --train-esp $(call files,$(TRAIN_ESP)) \
	--valid-efd $(call files,$(VALID_EFD)) --valid-esp $(call files,$(VALID_ESP)) \
	--test-efd $(call files,$(TEST_EFD)) --test-esp $(call files,$(TEST_ESP)))
CACHE_FLAG = $(call flag,--cache-dir,$(CACHE_DIR))
SHARED_FLAGS = $(CACHE_FLAG) $(call flag,--physnet-cutoff,$(PHYSNET_CUTOFF)) \
	$(call flag,--dcmnet-cutoff,$(DCMNET_CUTOFF)) $(call flag,--config,$(CONFIG))
TRAIN_FLAGS = $(call flag,--name,$(NAME)) $(call flag,--epochs,$(EPOCHS)) \
	$(call flag,--batch-size,$(BATCH_SIZE)) $(call flag,--learning-rate,$(LEARNING_RATE))
RUN_FLAG = --run $(call quoted,$(or $(RUN),runs/$(or $(NAME),joint)))
SPLIT_FLAG = --split $(call quoted,$(or $(SPLIT),test))

.DEFAULT_GOAL := help
.PHONY: help install reference-data preprocess check-data train evaluate predict report test test-slow lint bench bench-gpu clean clean-cache

help:  ## This list
	@echo "Targets:"
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'
	@echo "Variables (make train EPOCHS=20 BATCH_SIZE=64 NAME=mine):"
	@echo "  NAME EPOCHS BATCH_SIZE LEARNING_RATE     of the run; the others are flags: ARGS=\"--n-dcm 4 --seed 1\""
	@echo "  PHYSNET_CUTOFF DCMNET_CUTOFF             in Angstrom, of preprocessing and training alike"
	@echo "  TRAIN_EFD TRAIN_ESP VALID_EFD VALID_ESP  your NPZ files instead of the carried sample"
	@echo "  TEST_EFD TEST_ESP                        (optional; several files: \"a.npz b.npz\")"
	@echo "  DATA GRIDS                               or files to be divided: DATA=all.npz (GRIDS: their ESP, if apart)"
	@echo "  PREPROCESS_ARGS                          flags of preprocessing alone: \"--grid-unit bohr\""
	@echo "  CACHE_DIR CONFIG PYTHON                  shards' folder, settings file, interpreter of the new environment"
	@echo "  MOLECULES GEOMETRIES SMILES OUTPUT       of make reference-data: \"CO2 H2O\", extended XYZ, .smi files, folder"
	@echo "  RUN SPLIT                                of make evaluate and report (default: runs/NAME and test)"

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(addprefix $(VENV)/.installed-,dev reference smiles): $(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[$*]"
	@touch $@

install: $(VENV)/.installed  ## Create .venv and install what training needs

reference-data: $(VENV)/.installed-reference $(if $(SMILES),$(VENV)/.installed-smiles)  ## NPZ pairs of MOLECULES, GEOMETRIES or SMILES, computed by PySCF
	@$(BIN)/python -m preprocess.reference_data $(if $(MOLECULES),--molecules $(MOLECULES)) \
		$(if $(GEOMETRIES),--geometries $(call files,$(GEOMETRIES))) $(if $(SMILES),--smiles $(call files,$(SMILES))) \
		$(call flag,--output,$(OUTPUT)) $(ARGS)

preprocess: $(VENV)/.installed  ## Your files to padded HDF5 shards; a no-op when nothing changed
	@$(BIN)/python -m preprocess $(FILES) $(SHARED_FLAGS) $(PREPROCESS_ARGS)

check-data: $(VENV)/.installed  ## Look for mistakes in all molecules (preprocess looks at a sample)
	@$(BIN)/python -m preprocess.check_data $(FILES) $(SHARED_FLAGS) $(PREPROCESS_ARGS)

train: $(VENV)/.installed  ## Preprocess, then train (or continue) runs/NAME on these data
	@$(BIN)/python -m preprocess $(FILES) $(SHARED_FLAGS) $(PREPROCESS_ARGS) --then-train $(TRAIN_FLAGS) $(ARGS)

evaluate: $(VENV)/.installed  ## Errors and pictures of a trained run on one split
	@$(BIN)/python -m train.evaluate $(RUN_FLAG) $(SPLIT_FLAG) $(ARGS)

predict: $(VENV)/.installed  ## Energies, forces, dipoles, charges of the molecules in DATA, as extended XYZ
	@$(BIN)/python -m train.predict $(RUN_FLAG) --data $(call files,$(DATA)) $(ARGS)

report: $(VENV)/.installed  ## One HTML page on a trained run: data, curves, errors, ESP in 3D; and pictures
	@$(BIN)/python -m train.report $(RUN_FLAG) $(SPLIT_FLAG) $(ARGS)

test: $(VENV)/.installed-dev  ## The tests (8 to 13 minutes on two cores, less once programs are kept)
	$(BIN)/python -m pytest -q -n logical --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed-dev  ## The long checks as well
	$(BIN)/python -m pytest -q -m "slow or not slow"

lint: $(VENV)/.installed-dev  ## ruff, mypy, and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: preprocess  ## Batched training against batch size 1 with Python edge loops
	$(BIN)/python -m tests.benchmarks.throughput $(ARGS)

bench-gpu: $(VENV)/.installed-dev  ## What training does on the accelerator here: numbers, speed, floors; six minutes
	$(BIN)/python -m tests.benchmarks.gpu $(ARGS)

clean-cache: $(VENV)/.installed  ## Remove shards that the latest preprocessing does not need, with their sizes
	@$(BIN)/python -m preprocess.clean_cache $(CACHE_FLAG) $(ARGS)

clean:  ## Remove the environments and what tools left (never data_cache or runs)
	rm -rf .venv .venv-* build *.egg-info .mypy_cache .ruff_cache .pytest_cache
