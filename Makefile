# `make demo` and `make test` do all their own set-up in .venv; nothing but Python 3.11, pip and make is needed.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: demo test check bench bench-peers bench-sae bench-geometry chaos real archetypal geometry interop install clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "garner needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/garner demo

# one thread per process: with more, tiny tensors on few cores are many times slower; what starts Rays, servers and
# crowds of processes has the machine to itself, the rest is shared out by file
ALONE := ray or s3 or slow
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "$(ALONE)"
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not ($(ALONE))" --numprocesses 2 --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[real]'
	$(BIN)/python -m benchmarks

# makes an environment for every peer under build/peers, about 9 GB
bench-peers: install
	$(BIN)/python -m benchmarks.peers

# environments as above; some twenty minutes
bench-sae: install
	$(BIN)/python -m benchmarks.sae

# one thread on both sides; some five minutes
bench-geometry: install
	$(BIN)/python -m benchmarks.geometry
	$(BIN)/python -m benchmarks.probes

chaos: install
	$(BIN)/python -m tests.chaos

real: install
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[real]'
	$(BIN)/python -m examples.real

# coders and batches read by other systems' own code, in environments under build/peers, about 6 GB
interop: install
	$(BIN)/python -m benchmarks.peers.environment saelens dictionary_learning overcomplete
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/interop

# about twenty minutes on two cores
archetypal: install
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.archetypal

# some five minutes on two cores, most of it the training of four small models
geometry: install
	OMP_NUM_THREADS=1 $(BIN)/python -m examples.shared_geometry

clean:
	rm -rf .venv lake build
