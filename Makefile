# The words of the project: env, demo, test, lint, bench. CI runs these same words.
PYTHON   ?= python3.11
VENV     := .venv
BIN       = $(VENV)/bin
STAMP     = $(VENV)/.installed
# What the Dockerfile asks for otherwise.
EXTRAS   := dev
EDITABLE := --editable
PROGRAMS := psi4 libopenblas0-openmp mopac gromacs lammps libxrender1 libxext6 postgresql

.PHONY: env packages system demo test lint bench clean

env: packages system

packages: $(STAMP)

# torch first and exactly: a bare `torch` pulls several GB of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "parmflow needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(EDITABLE) ".[$(EXTRAS)]"
	$(BIN)/python -m pip check
	@touch $@

system:
	@.ci/system-packages $(PROGRAMS)

demo: env
	$(BIN)/parmflow refine data/libraries/demo.smi --out demo-out

test: env
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: env
	$(BIN)/python -m benchmarks

clean:
	rm -rf demo-out .pytest_cache .mypy_cache .ruff_cache
