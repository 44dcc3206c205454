# `make help` lists the targets. Everything runs in .venv, which the first target makes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2
# Small networks are fastest with one thread, and parallel test workers must not fight for cores.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help env demo test lint types doctest docs check benchmark benchmark-smoke measurements clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

env: $(STAMP)  ## create the environment in .venv and install the package

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python >= 3.11 is needed, this is %d.%d; run: make PYTHON=/path/to/python3.11 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## run the main job, DATA=adult for a real set; prints a table, writes build/demo.png
	@mkdir -p build
	$(THREADS) $(BIN)/python examples/quickstart.py --data $(or $(DATA),synthetic) --output build/demo.png

test: $(STAMP)  ## run the whole test suite, doctests included
	$(THREADS) $(BIN)/python -m pytest -n $(JOBS) -q

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## check types
	$(BIN)/mypy

doctest: $(STAMP)  ## run the examples in docstrings, docs and README alone
	$(THREADS) $(BIN)/python -m pytest -q skfairprune docs README.md

docs: $(STAMP)  ## write the docs and the reference as a site in build/docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

check: lint types docs test  ## everything that CI checks

# A status of 1 says that some fits failed: the report names them.
benchmark: $(STAMP)  ## every table and figure of docs/benchmarks (many hours; it can be stopped and goes on)
	$(THREADS) $(BIN)/python examples/benchmarks/run.py --jobs $(JOBS) $(ARGS) || [ $$? -eq 1 ]
	$(THREADS) $(BIN)/python examples/benchmarks/run.py bound frontier --sets acs_race --methods bilevel,hgb,lr,eg_lr \
		--seeds 5 --jobs $(JOBS) || [ $$? -eq 1 ]
	$(THREADS) $(BIN)/python examples/benchmarks/loss_surface.py
	$(THREADS) $(BIN)/python examples/benchmarks/report.py

# Each prints its tables; docs/results.md, hypergradients.md, networks.md and deployment.md say what they are.
measurements: $(STAMP)  ## the other figures of docs: hypergradients, stages, noise, speed, memory, prediction, digits
	cd examples/benchmarks && for name in "hypergradients.py" "hypergradients.py --data adult" \
		stages.py noise.py speed.py memory.py predict.py devices.py \
		"digits.py --seeds 8 --set-bounds .04,.03" "digits.py --first-seed 8 --seeds 8 --set-bounds .04,.03"; do \
		echo "== $$name"; $(THREADS) $(CURDIR)/$(BIN)/python $$name || exit; done

# The set "synthetic" needs no file; compas is added where the data are.
DATA_HOME := $(or $(SKFAIRPRUNE_DATA),../shared/data)
SMOKE := --sets synthetic$(if $(wildcard $(DATA_HOME)/compas.parquet),$(shell echo ,)compas) \
	--methods bilevel,scratch,dense,hgb,lr,eg_lr,diff_dp,diff_eodd,magnitude,prune_then_fair,no_gates,no_weights,auto

benchmark-smoke: $(STAMP)  ## the benchmark in minutes: short fits, two seeds; writes to build/benchmarks
	$(THREADS) $(BIN)/python examples/benchmarks/run.py --smoke --jobs $(JOBS) $(SMOKE) $(ARGS)
	$(THREADS) $(BIN)/python examples/benchmarks/report.py --smoke

clean:  ## remove the environment and what the tools left
	rm -rf $(VENV) build dist docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
