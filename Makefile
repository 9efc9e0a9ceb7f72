# make up    everything this machine needs, then its own telemetry in a browser
# make test  everything the tests need, then all of them
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
BASE   := $(VENV)/.base-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
DEV    := $(VENV)/.dev-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: up demo test check lint types docs golden pictures score gpu bench-agent packages clean

up: $(BASE)
	$(VENV)/bin/wellfed up

demo: $(BASE)
	$(VENV)/bin/wellfed demo

test: $(DEV) packages
	$(PY) -m pytest -n auto --dist loadgroup

check: $(DEV) lint types

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(DEV)
	$(VENV)/bin/mypy

docs: $(DEV)
	$(PY) docs/reference.py

# The real servers and the browser that tests start; needs root, and is skipped where all are there.
packages:
	@scripts/test-packages

$(VENV)/bin/python:
	@scripts/make-venv $(VENV)

$(BASE): | $(PY)
	$(PIP) -c constraints.txt -e '.[dashboard]'
	@touch $@

$(DEV): | $(PY)
	$(PIP) -c constraints.txt -e '.[dashboard]' --group dev
	@touch $(BASE) $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What the driver of this machine's GPUs answers, how fast, and to whom.
gpu: $(BASE)
	$(PY) -m wellfed.collectors.nvml_report

# What the agent costs beside node_exporter on the same large node, in one run.
bench-agent: $(DEV) packages
	$(PY) bench/agent.py

score: $(DEV)
	$(PY) -m bench.score

pictures: $(DEV) packages
	$(PY) docs/pictures.py

golden: $(DEV)
	$(PY) tests/golden/update.py
