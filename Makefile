# Two commands for everybody:   make demo   trains a GAN on real digits    make test   checks everything
# More of them:                 make help
# Another interpreter:          make PYTHON=/path/to/python3.12 test

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test slow lint format docs bench lock clean distclean

USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(USABLE)' 2>/dev/null && { command -v $$p; break; }; done)

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n '/^torch==/p' requirements.lock)
# What `make lock` resolves anew; everything else follows from it.
LOCKED := .[log,onnx,dev,docs] resvg-py hatchling editables
# One thread per test process: the processes are the parallelism, and sums are then the same on every machine.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

demo: $(READY) ## train the default system on real digits and write a report
	$(BIN)/saddlepoint train wgan-gp --preset demo --data digits --out runs/demo --overwrite
	@echo "The report, with samples over time, curves and settings: $(CURDIR)/runs/demo/report.html"

test: lint docs ## lint, types, documentation and the default tests
	$(PYTEST) $(ARGS)

slow: $(READY) ## the tests that take minutes
	@$(PYTEST) -m slow $(ARGS) || { status=$$?; [ $$status -eq 5 ] || exit $$status; echo "No test is marked slow."; }

lint: $(READY) ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff format the code and repair what it safely can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## the documentation, as files to open in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY) ## images per second, against a plain hand-written loop
	$(BIN)/python benchmarks/training_step.py $(ARGS)

# torch comes first and pinned, so that no other package may choose its build. `.incomplete` marks an installation
# that was interrupted: nobody can tell what pip left behind, so it starts over. `.ready` is written at the very end.
$(READY): requirements.lock requirements-nodeps.lock pyproject.toml
	@rm -f $@
	@if [ -e .venv/.incomplete ] || ! $(BIN)/python -c 'import pip; $(USABLE)' >/dev/null 2>&1; then \
		if ! "$(PYTHON)" -c '$(USABLE)' 2>/dev/null; then \
			echo "saddlepoint needs Python 3.11 or newer with its venv module; found: $(or $(PYTHON),none)." >&2; \
			echo "Install it, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		fi; \
		rm -rf .venv; \
		"$(PYTHON)" -m venv .venv; \
	fi
	@touch .venv/.incomplete
	@echo "Installing the locked packages into .venv (minutes the first time, seconds later)."
	$(PIP) install $(TORCH)
	$(PIP) install --quiet -r requirements.lock
	$(PIP) install --quiet --no-deps -r requirements-nodeps.lock
	@rm .venv/.incomplete
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

lock: ## resolve the newest versions and rewrite requirements.lock
	rm -rf build/lock
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet $(TORCH)
	build/lock/bin/python -m pip install --quiet $(LOCKED)
	sed '/^[^#]/,$$d' requirements.lock > build/header
	build/lock/bin/python -m pip freeze --all \
		| sed -E '/^(pip|saddlepoint|triton|nvidia-.*|cuda-.*)[ =]/d; s/\+[a-z0-9.]+$$//' > build/pins
	cat build/header build/pins > requirements.lock
	rm -rf build/lock build/header build/pins

clean: ## remove what can be made again, except the environment and your runs
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf .venv
