# Everything is done through here; `make help` prints the lines marked with ##.
# Nothing needs root but test-packages, and nothing else is written outside this folder, pip's
# cache and hvdkit's.

PYTHON     ?= python3
VENV       ?= .venv
# An environment that exists says by its stamp what it was made for.
made       := $(subst -, ,$(patsubst $(abspath $(VENV))/.setup-%,%,$(wildcard $(abspath $(VENV))/.setup-*)))
FRAMEWORKS ?= $(if $(made),$(made),torch tensorflow)
FRAMEWORK  ?= $(if $(findstring torch,$(FRAMEWORKS)),torch,$(firstword $(FRAMEWORKS)))
NP         ?= 2
ARGS       ?=

SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

space      := $(subst ,, )
comma      := ,
chosen     := $(sort $(subst $(comma),$(space),$(FRAMEWORKS)))
extras     := $(subst $(space),$(comma),$(chosen))
venv       := $(abspath $(VENV))
# One stamp a set of frameworks, so that asking for another set sets up again.
stamp      := $(venv)/.setup-$(subst $(space),-,$(chosen))
python     := $(venv)/bin/python
export PATH := $(venv)/bin:$(PATH)

unknown    := $(sort $(filter-out torch tensorflow,$(chosen) $(FRAMEWORK)))
ifneq ($(unknown),)
$(error unknown framework: $(unknown). FRAMEWORKS is "torch tensorflow", torch or tensorflow; FRAMEWORK is one of them)
endif
ifeq ($(filter $(FRAMEWORK),$(chosen)),)
$(error FRAMEWORK=$(FRAMEWORK) is not in this environment, which is for "$(FRAMEWORKS)". To have both: make setup FRAMEWORKS="torch tensorflow")
endif

.PHONY: help setup train test test-fast image-test image-test-gpu test-gpu test-packages lint format soak bench doctor clean

help: ## Print this manual
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@printf '\nVariables, with their defaults:\n'
	@printf '  %-12s%s\n' \
	  FRAMEWORKS '"torch tensorflow"; or torch, or tensorflow: what setup installs' \
	  FRAMEWORK  'torch if that is among them: what train trains with' \
	  NP         '2: ranks of train' \
	  ARGS       'config overrides of train, as in ARGS="model=resnet trainer.seed=1"' \
	  PYTHON     'python3: the interpreter that makes the environment' \
	  VENV       '.venv: the environment'

setup: $(stamp) ## Make the environment, install, build Horovod (again: at once)

$(stamp): setup.cfg pyproject.toml Makefile hvdkit/install/rules.py
	@# An environment made for another set of frameworks is made anew: a leftover TensorFlow
	@# would be found, and a torch-only setup would not be one.
	@if compgen -G '$(venv)/.setup-*' > /dev/null && [ ! -e '$(stamp)' ]; then \
	  echo 'This environment is for other frameworks; making it anew for: $(chosen)'; \
	  rm -rf '$(venv)'; \
	fi
	@if [ ! -x '$(python)' ]; then $(PYTHON) -m venv '$(venv)'; fi
	@echo 'Installing $(chosen) and hvdkit into $(venv); the first time this takes minutes.'
	$(python) -m pip install --quiet --editable '.[$(extras),dev]'
	$(python) -m hvdkit build-horovod --frameworks $(extras)
	@touch '$@'

train: setup ## Train the digits recipe on NP ranks (FRAMEWORK, ARGS)
	horovodrun -np $(NP) python recipes/vision.py framework=$(FRAMEWORK) $(ARGS)

test: lint ## Run everything: lint, types, unit tests, then tests on real ranks
	$(python) -m pytest -n 2 -m 'not launch and not soak and not image and not gpu'
	@# Hundreds of real jobs on a busy machine: what failed is told, and tried once more by itself.
	$(python) -m pytest -m 'launch and not soak' || { \
	  echo 'Once more, by themselves, the tests that failed above:'; \
	  $(python) -m pytest -m 'launch and not soak' --last-failed --last-failed-no-failures none; \
	}

test-fast: setup ## Run the tests that start no ranks and no build (under a minute)
	$(python) -m pytest -n 2 -m 'not launch and not soak and not system and not image and not gpu'

# Installed, and not removed with its settings left behind, is what `ii` means.
test-packages: ## (root) Install the system programs that some tests need (again: at once)
	@wanted=$$(cat tests/packages.txt); \
	there=$$(dpkg-query --show --showformat '$${db:Status-Abbrev}$${Package}\n' $$wanted 2> /dev/null \
	  | sed -n 's/^ii *//p' || true); \
	absent=$$(comm -23 <(sort <<< "$$wanted") <(sort <<< "$$there")); \
	if [ -n "$$absent" ]; then \
	  if [ "$$(id -u)" != 0 ]; then \
	    echo "make test-packages must be run as root, to apt-get install:" $$absent; \
	    exit 1; \
	  fi; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update --quiet; \
	  apt-get install --quiet --yes --no-install-recommends $$absent; \
	fi

# Not part of `make test`: minutes, gigabytes, root.
image-test: setup ## (root) Build the container image and run it: doctor, training, SIGTERM, ssh
	$(python) -m pytest -m image --timeout 1500 tests/image --ignore tests/image/test_gpu_image.py

image-test-gpu: setup ## (root) Build the GPU image of torch, which needs no GPU but CUDA 13's nvcc
	$(python) -m pytest -m image --timeout 2400 tests/image/test_gpu_image.py

test-gpu: setup ## Run what needs an NVIDIA GPU (fails without one): NCCL, AMP, torch.compile
	$(python) -m pytest -m gpu tests/gpu

lint: setup ## Check style, formatting and types
	ruff check .
	ruff format --check .
	mypy

format: setup ## Format the code and mend what ruff can
	ruff check --fix .
	ruff format .

soak: setup ## Run the long tests: a whole build, many repetitions
	$(python) -m pytest -m soak --timeout 1800

bench: setup ## Run the benchmarks: steps beside DDP and stock Horovod, input, tables
	$(python) -m benchmarks

doctor: setup ## Say what is installed and what is wrong with it
	hvdkit doctor -np $(NP)

clean: ## Remove the environment, runs and caches of this folder (not hvdkit's wheel cache)
	rm -rf '$(venv)' build dist *.egg-info runs outputs multirun \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
