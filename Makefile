# `make demo` and `make test` are all that a newcomer needs; both create .venv where there is none.
PYTHON ?= python3
LOWEST_PYTHON ?= python3.11
PY := .venv/bin/python

.PHONY: demo test types coverage test-extras test-lowest test-matrix notebooks bench clean

demo: .venv/agents.installed
	.venv/bin/canvit-gym demo

test: .venv/test.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(MAKE) --no-print-directory types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --durations=10 $(COVERAGE)
	@echo "All tests passed. Next: source .venv/bin/activate, then canvit-gym --help"

types: .venv/test.installed
	mkdir -p .venv/types && ln -sfn ../../agents .venv/types/canvit_agents  # mypy knows folders only
	$(PY) -m mypy

# The same; fails where the tests reach less of the code than pyproject.toml asks.
coverage:
	$(MAKE) --no-print-directory test COVERAGE="--cov --cov-report=term:skip-covered"

# What the extra "teachers" brings: too heavy for `make test`, which skips these tests without it.
test-extras: .venv/extras.installed
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/training/test_teachers.py tests/training/test_passive.py tests/scenes/test_album.py

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: .venv-lowest/installed
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2

# The same tests with other numbers of threads, other processors' instructions, and in random order.
test-matrix: .venv/test.installed
	for threads in 1 4; do OMP_NUM_THREADS=$$threads $(PY) -m pytest -q -n 2 || exit 1; done
	for isa in AVX2 AVX512_CORE; do \
	  OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=$$isa $(PY) -m pytest -q -n 2 || exit 1; done
	$(PY) -m pip install --quiet --upgrade --no-deps --target .venv/random pytest-randomly
	for seed in 1 2; do OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/.venv/random \
	  $(PY) -m pytest -q -n 2 -p randomly --randomly-seed=$$seed || exit 1; done

# Runs the notebooks and keeps what they show, before they are committed.
notebooks: .venv/test.installed
	OMP_NUM_THREADS=1 $(PY) notebooks/execute.py

# On an idle machine: writes benchmarks/*.json and the README's tables of them.
bench: .venv/test.installed
	$(PY) -m canvit_gym.scenes.benchmark
	$(PY) -m canvit_gym.bench --compile --out benchmarks
	$(PY) -m canvit_agents.learning.throughput --out benchmarks/learning.json
	$(PY) docs/fill_tables.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python %d.%d was found; canvit-gym needs 3.11 or newer (make PYTHON=python3.12 ...)." % v[:2])'
	$(PYTHON) -m venv .venv

.venv/agents.installed: .venv/bin/python pyproject.toml
	$(PY) -m pip install --quiet --editable '.[agents]'
	touch $@

# The reference implementation declares Python >= 3.12 but runs on 3.11; the tests compare with it.
.venv/test.installed: .venv/bin/python pyproject.toml
	$(PY) -m pip install --quiet --editable '.[test]'
	$(PY) -m pip install --quiet --no-deps --ignore-requires-python canvit-pytorch==0.2.1 canvit-core==0.2.1
	touch $@

.venv/extras.installed: .venv/test.installed
	$(PY) -m pip install --quiet --editable '.[test,teachers]'
	touch $@

.venv-lowest/installed: pyproject.toml .ci/lowest.txt
	$(LOWEST_PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint .ci/lowest.txt --editable '.[test]'
	.venv-lowest/bin/python -m pip install --quiet --no-deps --ignore-requires-python canvit-pytorch==0.2.1 canvit-core==0.2.1
	touch $@

clean:
	rm -rf .venv .venv-lowest build dist *.egg-info
