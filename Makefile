# Every target works alone, from a fresh clone: what it needs is installed into .venv first, once.
# PYTHON chooses the interpreter (3.11 to 3.13), VENV the folder: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
CREATED := $(VENV)/.created-with-$(subst /,-,$(PYTHON))
INSTALLED := $(VENV)/.installed

# Byte-compiled at once: an uncompiled torch takes twice as long to import, in every process.
ifdef UV
  CREATE_VENV = $(UV) venv --quiet --python "$(PYTHON)" $(VENV)
  INSTALL = $(UV) pip install --quiet --python $(BIN)/python --compile-bytecode $(PIP_FIND_LINKS:%=--find-links "%")
else
  CREATE_VENV = $(PYTHON) -m venv $(VENV)
  INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --compile
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test quick-tests test-slow torture lint format train-default pack-training clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

install: $(INSTALLED) ## make .venv with everything that development needs

demo: $(INSTALLED) ## sample photographs -> shards of latents -> photographs, and their PSNR, in demo/
	rm -rf demo
	$(BIN)/semdis encode tests/photos -o demo/latents
	$(BIN)/semdis decode demo/latents -o demo/decoded
	$(BIN)/semdis roundtrip tests/photos -o demo/roundtrip

# A file to each of a few processes, of which some wait: the longest first, and one thread for each, for threads that
# share a busy core slow each other down. In memory where there is room: a disk would be waited for most of the time.
MEMORY := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000 {print "/dev/shm"}')
test: $(INSTALLED) ## lint, types and all tests that take no more than minutes
	$(MAKE) --jobs 2 lint quick-tests

quick-tests: $(INSTALLED)
	$(MEMORY:%=TMPDIR=%) OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED) ## the tests that take longer
	$(BIN)/pytest -m slow -n 2 --dist worksteal

# Some 45 minutes; the last line is most of them, and has IMAGES for less.
IMAGES ?= 1000000
torture: $(INSTALLED) ## kills, power cuts, full disks, rivals, hostile names and files, fuzz, a million files; writes docs/torture.md
	$(BIN)/python -m tests.torture.report
	$(BIN)/python -m tests.odd_images
	$(BIN)/pytest tests/torture tests/pipeline/test_resume.py tests/store/test_growth.py tests/fuzz tests/cli/test_odd_images.py
	$(BIN)/python benchmarks/million_files.py --num-images $(IMAGES)

lint: $(INSTALLED) ## style, import rules and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: $(INSTALLED) ## rewrite the sources the way `make lint` wants them
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# The run that made the bundled weights, 84 minutes on two cores with AMX. PHOTOS: folder with images, or tars of them.
TRAINING = --config semdis_cli/weights/semdis-small/config.json --init pca --crop 192 --one-step-share 0.8 --balance 0.5
train-default: $(INSTALLED) ## train the bundled model anew: make train-default PHOTOS=folder, into trained/
	@test -n "$(PHOTOS)" || { echo "make train-default PHOTOS=folder: name the photographs to train on"; exit 2; }
	$(BIN)/semdis train "$(PHOTOS)" -o trained $(TRAINING) --batch-size 28 --steps 4500 --weights-dtype bfloat16

# For a machine that has torch, and no network. PACK_PYTHON: its Python; PACK_PLATFORMS: what wheels may be for.
PACK_PYTHON ?= 3.12
PACK_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
PACKED = typer rich shellingham markdown-it-py mdurl pygments annotated-doc annotated-types pydantic pydantic-core \
  typing-inspection safetensors pillow
pack-training: $(INSTALLED) ## a folder that trains elsewhere with one command: make pack-training PHOTOS=folder-of-tars, into pack/
	@test -n "$(PHOTOS)" || { echo "make pack-training PHOTOS=folder: name the folder with tars of crops"; exit 2; }
	@test -z "$$(find "$(PHOTOS)" -name '*.tar' -size +64M)" || { echo "tars of at most 64 MiB, so that they can be moved"; exit 2; }
	rm -rf pack && mkdir -p pack/data pack/wheels
	cp "$(PHOTOS)"/*.tar pack/data/
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir pack/wheels .
	$(PYTHON) -m pip download --quiet --no-deps --dest pack/wheels --constraint constraints.txt --only-binary=:all: \
	  --python-version $(PACK_PYTHON) $(PACK_PLATFORMS:%=--platform %) $(PACKED)
	cp docs/train-offline.sh pack/run.sh

clean: ## remove what the other targets made, .venv included
	rm -rf $(VENV) demo trained pack build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find semdis_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(CREATED) pyproject.toml constraints.txt
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(CREATED):
	rm -rf $(VENV)
	$(CREATE_VENV)
	@touch $@
