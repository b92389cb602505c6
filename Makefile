# `make demo` and `make test` are all that a newcomer needs; both create .venv where there is none.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test notebooks bench clean

demo: .venv/agents.installed
	.venv/bin/canvit-gym demo

test: .venv/test.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	mkdir -p .venv/types && ln -sfn ../../agents .venv/types/canvit_agents  # mypy knows folders only
	$(PY) -m mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --durations=10

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

clean:
	rm -rf .venv build dist *.egg-info
