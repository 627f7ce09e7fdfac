# Two commands on a fresh machine: `make demo` and `make test`. A second run installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
# tests side by side, a file to a process: one test uses one core for most of its time
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist loadfile

.PHONY: setup demo real test slow slurm check clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard hatch_build.py ssl_retina/data/native/*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/ssl-retina demo --out "$(OUT)"

# make real DATA=FOLDER [METHODS=mae,simclr,dinov2] [SEEDS=2] [STEPS=200]: the folder holds idrid/ and hygd/; nothing is downloaded
real: setup
	$(BIN)/ssl-retina real $(if $(DATA),"$(DATA)") $(if $(METHODS),--methods "$(METHODS)") \
	    $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS)) --out out/real

test: setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not slurm"

slow: setup
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --no-loadscope-reorder --timeout 1800 -m "slow and not slurm"

slurm: setup
	$(BIN)/python -m pytest -m slurm -s tests/slurm

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

clean:
	rm -rf $(VENV) out runs build dist
