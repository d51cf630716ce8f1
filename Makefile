# What a person types. Everything sets itself up; a second run is quick.
.PHONY: setup serve demo test check models lock clean

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

test: models
	@$(VENV)/pytest

check: setup
	@scripts/check

lock:
	@scripts/lock

clean:
	rm -rf .venv $(STATE) .mypy_cache .ruff_cache .pytest_cache .hypothesis
