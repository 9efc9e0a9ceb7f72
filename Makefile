# make up    everything this machine needs, then its own telemetry in a browser
# make test  everything the tests need, then all of them
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
BASE   := $(VENV)/.base-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
DEV    := $(VENV)/.dev-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: up demo test chaos check lint types docs golden pictures score gpu bench-agent bench-analysis packages bench-ui bench-receiver bench-live bench-days clean

up: $(BASE)
	$(VENV)/bin/wellfed up

demo: $(BASE)
	$(VENV)/bin/wellfed demo

test: $(DEV) packages
	$(PY) -m pytest -n auto --dist loadgroup

# Every kill, damage and hostile input of tests/chaos, not the sample that `make test` tries: half an hour on
# two cores. Goes on where it was cut short; PARTS="kills crowds" runs some of it, see docs/chaos.md.
chaos: $(DEV) packages
	$(PY) tests/chaos/parts.py $(PARTS)

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
	@scripts/test-packages $(VENV)

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

# What the driver of this machine's GPUs answers, how fast and to whom; work of a known size beside what the
# collector says of it; then, with torch in the environment, injected faults around a PyTorch input pipeline,
# recorded and judged. Under nine minutes.
gpu: $(DEV)
	$(PY) -m wellfed.collectors.nvml_report
	$(PY) -m pytest -q -m gpu tests/nvml
	$(PY) bench/record.py

# What the agent costs beside node_exporter on the same large node, in one run.
bench-agent: $(DEV) packages
	$(PY) bench/agent.py

# What an answer over history costs beside DuckDB, Prometheus, VictoriaMetrics and Ray; SCALE=10 for 88 M rows.
bench-analysis: $(DEV) packages
	$(PY) -m bench.analysis --scale $(or $(SCALE),1)

# What the pages cost at 1,024 and 10,240 GPUs.
bench-ui: $(DEV) packages
	$(PY) -m bench.ui

# How many points a second a hub takes, beside VictoriaMetrics and the bare decoding, in one run.
bench-receiver: $(DEV) packages
	$(PY) -m bench.receiver

# What judging one window of a live fleet costs.
bench-live: $(BASE)
	$(PY) -m bench.live

# What a page over a day costs.
bench-days: $(BASE)
	$(PY) -m bench.days

score: $(DEV)
	$(PY) -m bench.score

pictures: $(DEV) packages
	$(PY) docs/pictures.py

golden: $(DEV)
	$(PY) tests/golden/update.py
