# What a person types. `make help` lists it; README.md explains it.

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
# Where torch comes from: auto (CUDA only where there is an NVIDIA driver), cpu, cuda, or the URL of a package index.
TORCH ?= auto
BIN := $(VENV)/bin
# One process a core, at most four; tests of one xdist group share one, and with it the hub that they start.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# Tools that no test needs, apart, so that what they need changes nothing of what is installed for the hub.
TOOLS := $(VENV)/tools/bin
TOOLS_STAMP := $(VENV)/.installed-tools
# setuptools warns of editable installs each time; this one is meant.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The part `python` of `make verify-full` takes those of them that are there.
OTHER_PYTHONS ?= python3.12 python3.13
TORCH_REQUIREMENT := torch>=2.13,<2.14
# `make verify-full` in parts, each at most an hour; PART=chaos starts one of them. A part is a target `verify-<part>`.
PARTS := model-types chaos fuzz cuda tests python
PART ?= $(PARTS)
# The part `cuda` wants a torch that is built for CUDA, in an environment of its own; no GPU.
CUDA_VENV ?= .venv-cuda
CUDA_TORCH ?= torch>=2.14,<2.15
CUDA_STAMP := $(CUDA_VENV)/.installed
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# All gates beside the tests, the slowest first: `make lint`, and with it .ci/run, `make check` and pre-commit, runs them.
GATES := gate-types gate-migrations gate-contracts gate-links gate-format gate-lint
# What each gate says in one piece, where make can (4.0 and newer).
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync)

.DEFAULT_GOAL := help
.PHONY: help quickstart up test test-python test-without-torch lint $(GATES) check verify-full $(PARTS:%=verify-%) fmt \
  coverage audit hooks constraints answers screenshots compare-with clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(STAMP) ## Set up, start everything, train a real adapter, leave the dashboard up
	@$(BIN)/finetune-hub demo $(ARGS)

up: $(STAMP) ## Start the hub in the foreground; Ctrl-C stops it
	@$(BIN)/finetune-hub up $(ARGS)

test: $(DEV_STAMP) ## Run all tests
	@$(PYTEST) $(ARGS)

lint: $(DEV_STAMP) ## What a change must pass beside the tests: format, lint, types, contracts, migrations, links
	@$(MAKE) --no-print-directory --keep-going --jobs 2 $(SYNC) $(GATES)

gate-types:
	@$(BIN)/python -m mypy
gate-migrations:
	@DJANGO_SETTINGS_MODULE=tests.offline_settings $(BIN)/python manage.py makemigrations --check --dry-run
gate-contracts:
	@$(BIN)/lint-imports
gate-links:
	@$(BIN)/python -m tests.gates.dead_links
gate-format:
	@$(BIN)/ruff format --check .
gate-lint:
	@$(BIN)/ruff check .

check: lint ## The gates of `make lint`, then all tests: what CI runs
	@$(PYTEST) $(ARGS)

test-python: ## Run the tests that need no torch on another Python, in .venv-3.X: PYTHON=python3.12
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	  $(MAKE) --no-print-directory VENV=.venv-$$version test-without-torch

# Torch is not in its environment: tests/needs_torch.py says which tests that leaves out, and how many.
test-without-torch: $(VENV)/.installed-test
	@$(PYTEST) $(ARGS)

verify-full: ## What is too long for every test run, each with a report in docs/; PART=… one of: model-types chaos fuzz cuda tests python
	@for part in $(PART); do \
	  case " $(PARTS) " in *" $$part "*) ;; *) echo "PART=$$part is none of: $(PARTS)." >&2; exit 1 ;; esac; \
	  $(MAKE) --no-print-directory verify-$$part || exit 1; \
	done

verify-model-types: $(DEV_STAMP) # Every model type trains, is saved and merges: docs/model-types.md
	MODEL_TYPES=all $(BIN)/python -m pytest tests/engine/test_model_types.py $(ARGS)

verify-chaos: $(DEV_STAMP) # 300 faults: docs/chaos.md
	$(BIN)/python -m tests.chaos --faults 300 --seed 7 --report docs/chaos.md

# atheris has no wheel for every machine, so it is no dependency.
verify-fuzz: $(DEV_STAMP) # A million inputs for the parsers: docs/fuzz.md
	@$(PIP) 'atheris>=3,<4'
	$(BIN)/python -m tests.fuzz --inputs 1000000 --seed 7 --report docs/fuzz.md

verify-tests: $(DEV_STAMP) # Tests that are marked `full`
	@$(PYTEST) --full $(ARGS)

verify-python: # The tests that need no torch, on those of OTHER_PYTHONS that are there
	@for python in $(OTHER_PYTHONS); do \
	  if $$python -c '' 2>/dev/null; then $(MAKE) --no-print-directory test-python PYTHON=$$python || exit 1; \
	  else echo "$$python is not on this machine: its tests are left out."; fi; \
	done

verify-cuda: $(CUDA_STAMP) # What a CUDA build of torch proves without a GPU: docs/gpu-report.md
	$(CUDA_VENV)/bin/python -W ignore -m tests.cuda --report docs/gpu-report.md

fmt: $(DEV_STAMP) ## Format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

coverage: $(DEV_STAMP) ## Run all tests and say how much of the product they run; fails below the floor in pyproject.toml
	@$(PYTEST) --cov --cov-report=term $(ARGS)

audit: $(DEV_STAMP) $(TOOLS_STAMP) ## Known vulnerabilities, risky code, licences; `Error 69`: the advisories cannot be reached
	@$(BIN)/python -m tests.gates.audit $(TOOLS)

hooks: $(TOOLS_STAMP) ## Run `make lint` before each commit in this checkout
	@$(TOOLS)/pre-commit install

# torch and NVIDIA's packages are left out: which build of torch there is depends on the machine (TORCH, above).
constraints: $(TOOLS_STAMP) ## Pin anew what is installed (constraints.txt); ARGS=--upgrade takes newer releases
	@$(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate \
	  --custom-compile-command "make constraints" --output-file constraints.txt pyproject.toml $(ARGS)
	@grep -vE '^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' constraints.txt >$(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

answers: $(DEV_STAMP) ## Make the models by which the command line reads what the API answers, after a change of the API
	@DJANGO_SETTINGS_MODULE=tests.offline_settings $(BIN)/python manage.py spectacular --fail-on-warn \
	  --custom-settings finetune_hub.api.schema.SCHEMA_SETTINGS --file docs/openapi.yaml
	@$(BIN)/python -m tests.cli.make_answers

screenshots: $(DEV_STAMP) ## Draw every page into screenshots/; with ARGS=--docs, the pictures in docs/images
	@$(BIN)/python -m tests.browser.screenshots $(ARGS)

compare-with: $(DEV_STAMP) ## Engine, hub and pages of this checkout against REV=<commit>, in turn: 20 minutes
	@$(BIN)/python -m benchmarks.compare --rev "$(REV)" $(ARGS)

clean: ## Remove the virtual environments
	rm -rf $(VENV) .venv-3.* $(CUDA_VENV)

$(VENV)/.installed-test: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a minute or two the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) --constraint constraints.txt --editable '.[test]'
	@touch $@

# One install, repeated when pyproject.toml or constraints.txt changes. It says what is missing before it downloads
# anything, and takes torch's CUDA packages (gigabytes) only where there is an NVIDIA driver, or where TORCH=cuda asks.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "finetune_hub needs Python 3.11 or newer. Install it, or name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "Python's venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@case "$(TORCH)" in \
	  cuda) $(PIP) "$(TORCH_REQUIREMENT)" ;; \
	  cpu) $(PIP) "$(TORCH_REQUIREMENT)" --index-url $(TORCH_CPU_INDEX) ;; \
	  auto) \
	    if nvidia-smi -L >/dev/null 2>&1 || ! $(PIP) --dry-run --report - "$(TORCH_REQUIREMENT)" | grep -q '"name": "nvidia'; \
	    then $(PIP) "$(TORCH_REQUIREMENT)"; \
	    else $(PIP) "$(TORCH_REQUIREMENT)" --index-url $(TORCH_CPU_INDEX); fi ;; \
	  http*) $(PIP) "$(TORCH_REQUIREMENT)" --index-url $(TORCH) ;; \
	  *) echo "TORCH=$(TORCH) is none of auto, cpu, cuda or the URL of a package index." >&2; exit 1 ;; \
	esac
	@$(PIP) --constraint constraints.txt --editable '.[all]'
	@touch $@

$(DEV_STAMP): $(STAMP)
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(TOOLS_STAMP): $(STAMP)
	@$(PYTHON) -m venv $(VENV)/tools
	@$(TOOLS)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(TOOLS)/python -m pip install --quiet --disable-pip-version-check --upgrade --group tools
	@touch $@

# The engine's packages beside a torch that is newer than `make` installs: none older is tried here, see CUDA_TORCH.
$(CUDA_STAMP): pyproject.toml
	@echo "Setting up $(CUDA_VENV): torch for CUDA takes about 6 GB on disk, and minutes to download. Ctrl-C stops it."
	@$(PYTHON) -m venv $(CUDA_VENV)
	@$(CUDA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(CUDA_TORCH)" coverage pytest
	@$(CUDA_VENV)/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' || { \
	  echo "$(CUDA_TORCH) came without CUDA. Name a build that has it, as in CUDA_TORCH=torch==2.14.1" >&2; exit 1; }
	@$(CUDA_VENV)/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  names = project["dependencies"] + project["optional-dependencies"]["engine"]; \
	  print(*(name for name in names if not name.startswith("torch")), sep="\n")' > $(CUDA_VENV)/requirements.txt
	@$(CUDA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $(CUDA_VENV)/requirements.txt
	@touch $@
