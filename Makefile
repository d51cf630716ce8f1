# What a person types. Everything sets itself up; a second run is quick.
.PHONY: setup serve demo demo-kv demo-conversations test soak mutate chaos check models lock clean

VENV := .venv/bin
STATE := .torpor
MODELS := $(STATE)/models

setup:
	@scripts/setup

models: setup
	@$(VENV)/torpor models prepare $(MODELS)

serve: models
	@exec $(VENV)/torpor serve examples/laptop.yaml

demo: models
	@$(VENV)/python scripts/demo.py examples/laptop.yaml

demo-kv: models
	@$(VENV)/python scripts/demo_kv.py examples/conversations.yaml

demo-conversations: models
	@$(VENV)/python scripts/demo_conversations.py examples/round-robin.yaml

test: models
	@$(VENV)/python -P scripts/suite.py

# So many simulated events with faults and all invariants: make soak EVENTS=10000000
EVENTS ?= 1000000
soak: setup
	@TORPOR_SOAK_EVENTS=$(EVENTS) $(VENV)/pytest -q tests/core/soak.py

# Small changes of the core, one at a time, and whether a test notices: make mutate SAMPLE=50 SEED=1
SAMPLE ?= 300
SEED ?= 0
mutate: setup
	@$(VENV)/python scripts/mutate.py --sample $(SAMPLE) --seed $(SEED)

# Parts of a live fleet are killed, stopped and slowed under load. Engines without a model:
# make chaos FLEET=--fake REQUESTS=100000
FLEET ?= benchmarks/chaos/real.yaml
REQUESTS ?= 2000
chaos: models
	@$(VENV)/torpor bench chaos $(FLEET) --requests $(REQUESTS) --seed $(SEED) $(CHAOS)

check: setup
	@scripts/check

lock:
	@scripts/lock

clean:
	rm -rf .venv $(STATE) .mypy_cache .ruff_cache .pytest_cache .hypothesis
