# Everything a person types. `make` alone prints the list.
CONFIG  ?= pipeline/presets/demo.toml
VENV    ?= .venv
PY      := $(VENV)/bin/python
SHARED  := $(abspath ../shared)

# The photographs and weights that some runs and tests use, where they are at hand.
ifneq ($(wildcard $(SHARED)/data),)
export PERMAFROST_DATA ?= $(SHARED)/data
endif
ifneq ($(wildcard $(SHARED)/backbones),)
export PERMAFROST_WEIGHTS ?= $(SHARED)/backbones
endif

.DEFAULT_GOAL := help

.PHONY: help
help:  ## Show this list
	@grep -hE "^[a-z-]+:.*## " $(MAKEFILE_LIST) | sed -E "s/:.*## /\t/" | expand -t 16

$(VENV)/.made: requirements.lock pyproject.toml
	@echo "making the environment in $(VENV): about 6 GB, a few minutes, once"
	@python3.11 -m venv $(VENV) 2>/dev/null || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.made  ## Make the environment in .venv (once; other targets do it by themselves)

.PHONY: demo
demo: install  ## Draw a catalogue, extract, train, score: under two minutes, no data needed
	@$(PY) -m pipeline demo

.PHONY: extract
extract: install  ## Stage 1: run the frozen backbones once, fill the feature stores
	@$(PY) -m pipeline extract $(CONFIG)

.PHONY: train-heads
train-heads: install  ## Stage 2: train the heads on stored features
	@$(PY) -m pipeline train-heads $(CONFIG)

.PHONY: score
score: install  ## Stage 3: index, search and score
	@$(PY) -m pipeline score $(CONFIG)

.PHONY: report
report: install  ## One HTML page about a run: what won, whether to believe it, what it gets wrong
	@$(PY) -m pipeline report $(CONFIG)

.PHONY: sweep
sweep: install  ## Try many configurations of the heads on the training classes, and rank them
	@$(PY) -m pipeline sweep $(CONFIG)

.PHONY: table
table: install  ## The heads of a run with several seeds, with intervals and a learning curve; CONFIG=runs/small_data.toml
	@$(PY) -m pipeline table $(CONFIG)

.PHONY: run
run: install  ## All three stages; CONFIG=runs/cars.toml for another run
	@$(PY) -m pipeline run $(CONFIG)

.PHONY: test
test: install  ## Every test, on up to four processors
	@$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: format
format: install  ## Put the code in the one format
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

.PHONY: lint
lint: install  ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

.PHONY: types
types: install  ## mypy --strict
	@$(PY) -m mypy

.PHONY: layers
layers: install  ## The import contracts
	@$(VENV)/bin/lint-imports

.PHONY: check
check: lint types layers test  ## Everything that must be clean

.PHONY: bench-extraction
bench-extraction: install  ## Stage 1 against the network alone, a plain loop and the machine (20 minutes)
	@$(PY) -m benchmarks.extraction
	@$(PY) -m benchmarks.precision
	@$(PY) -m benchmarks.many
	@$(PY) -m benchmarks.encode

.PHONY: bench-heads
bench-heads: install  ## Stage 2 against PyTorch Metric Learning and plain loops: training steps, memory, attributes (20 minutes)
	@$(PY) -m benchmarks.heads
	@$(PY) -m benchmarks.stack
	@$(PY) -m benchmarks.pairs
	@$(PY) -m benchmarks.attributes

.PHONY: bench-clip-retrieval
bench-clip-retrieval: install  ## Stage 1 against clip-retrieval, in an environment of its own (10 minutes)
	@$(PY) -m benchmarks.clip_retrieval

.PHONY: bench-scoring
bench-scoring: install  ## Stage 3 against faiss, PyTorch Metric Learning, Open Metric Learning: time and memory (an hour)
	@$(PY) -m benchmarks.scoring --oml .venv-oml
	@$(PY) -m benchmarks.scoring --large

.PHONY: bench-indexes
bench-indexes: install  ## Indexes chosen by budgets against autofaiss, in an environment of its own (half an hour)
	@$(PY) -m benchmarks.indexes

.PHONY: bench-on-disk
bench-on-disk: install  ## Memory, disk and time of an index built on disk: ROWS=2000000
	@$(PY) -m benchmarks.on_disk $(or $(ROWS),2000000)

.PHONY: bench-equal-bytes
bench-equal-bytes: install  ## 64 bytes an image: trained, PCA, or OPQ codes, on photographs (10 minutes)
	@$(PY) -m benchmarks.equal_bytes

.PHONY: bench-report
bench-report: install  ## The report of 10,000 queries, the whole command (3 minutes)
	@$(PY) -m benchmarks.report

.PHONY: bench-ray
bench-ray: install  ## Four workers of a Ray cluster against one, and what the driver takes for each chunk (4 minutes)
	@$(PY) -m benchmarks.ray_scale

.PHONY: bench-serve
bench-serve: install  ## Serving 100,000 vectors on loopback: CPU a request beside search and network alone, memory (2 minutes)
	@$(PY) -m benchmarks.serve

.PHONY: bench-scale
bench-scale: install  ## Ten million images without opening one: memory, commits, listing, a run with nothing to do (10 minutes, 4 GB)
	@$(PY) -m benchmarks.scale

.PHONY: check-gpu
check-gpu:  ## On a machine with a card: features, kills, memory, rates; installs nothing (15 minutes)
	@$(if $(wildcard $(PY)),$(PY),python3) -m benchmarks.check_gpu

.PHONY: check-search
check-search: install  ## Photographs find themselves, with the backbones and views of every run file (10 minutes)
	@PERMAFROST_EVERY_RUN=1 $(PY) -m pytest tests/pipeline/test_searcher.py -k photographs

.PHONY: check-hostile
check-hostile: install  ## Every test with 256 open files, no stdin, one processor, HOME and TMPDIR read-only (half an hour)
	@$(PY) -m benchmarks.check_hostile

.PHONY: check-kills
check-kills: install  ## Twenty SIGKILLs in an extraction, then compare every byte (minutes)
	@$(PY) -m benchmarks.kills 20

.PHONY: check-objects
check-objects: install  ## The same into object storage 50 ms away, on loopback, and its time beside a local disk (minutes)
	@$(PY) -m benchmarks.object_storage 20

.PHONY: check-ray-kills
check-ray-kills: install  ## Twenty SIGKILLs of Ray workers, actors and the driver, then compare every byte (5 minutes)
	@$(PY) -m benchmarks.ray_kills 20
