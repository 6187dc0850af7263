CONFIG ?= examples/agentdojo.yaml
PYTEST_ARGS ?=
python := .venv/bin/python
# Where it is set, as in many images, each process compiles anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

# That share the tests: one more than there are cores, since some only wait for containers.
processes = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))

.DEFAULT_GOAL := help
.PHONY: help run setup engine gvisor chromium image test test-fast test-exhaustive lint format docs viewer lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup engine ## Install what is missing and run CONFIG (examples/agentdojo.yaml)
	@.venv/bin/kumite run $(CONFIG)

setup: ## Install the project and all it needs into .venv
	@scripts/setup.sh

engine: ## Make a Docker engine answer; as root on Debian or Ubuntu: install and start one
	@scripts/docker_engine.sh

gvisor: ## Install gVisor's runsc and tell the Docker engine of it; as root on Debian or Ubuntu
	@scripts/gvisor.sh

chromium: ## Install Chromium, in which tests open the viewer's pages; as root on Debian or Ubuntu
	@scripts/chromium.sh

image: setup engine ## Build the sandbox images that are not there
	@.venv/bin/kumite images build

test: image ## Install what is missing, lint, and run all tests
	@$(MAKE) --no-print-directory check-style
	@$(MAKE) --no-print-directory -j2 check-types play-tests

# Tests run `make` as a shell would, without the options of this one.
play-tests:
	@env -u MAKEFLAGS -u MFLAGS $(python) -m scripts.all_tests -n $(processes) --dist loadgroup --no-loadscope-reorder --durations 40 $(PYTEST_ARGS)

test-fast: setup ## Run the tests that need neither Docker nor Ray nor vLLM, and are done in seconds
	@$(python) -m pytest -n auto -m "not (slow or docker or vllm or ray or faults or parity)" \
		$(addprefix --ignore=tests/,e2e faults parity security) $(PYTEST_ARGS)

test-exhaustive: image ## Run the tests of thousands of random cases, for minutes to hours; no other
	@$(python) -m pytest --exhaustive -m exhaustive $(PYTEST_ARGS)

lint: setup ## Check style, types, and which room imports which
	@$(MAKE) --no-print-directory check-style check-types

check-style:
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/lint-imports --no-cache --no-logo

# Takes one core for a minute, while tests use the others.
check-types:
	@.venv/bin/pyright

format: setup ## Format the code
	@.venv/bin/ruff check --fix --select I
	@.venv/bin/ruff format

docs: setup ## Write docs/config.md, and the tables of six other pages, from the code
	@$(python) -m scripts.docs

viewer: ## Build the viewer's page anew, after a change in cluster/viewer/page; needs Node.js and npm
	@cd cluster/viewer/page && npm ci --no-audit --no-fund && npm run build

lock: setup ## Resolve the versions that set-up installs, after a change of dependencies
	@PATH="$(CURDIR)/.venv/bin:$$PATH" $(python) scripts/lock.py $(addprefix --find-links ,$(PIP_FIND_LINKS))

clean: ## End a kept policy; remove .venv and what tools left; runs and the cache of images and models stay
	@if [ -x .venv/bin/kumite ]; then .venv/bin/kumite policy down | sed '/^no policy is kept$$/d'; fi
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
