PYTHON ?= python3
BIN := .venv/bin
# `make test` skips what is marked slow; `make slow` runs that alone.
.PHONY: run test slow calibration parity bench lint clean

run: .venv/installed
	$(BIN)/python -m sims ledger --scale quick

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# how often p-values reject heads that match nothing: some ten minutes
calibration: .venv/installed
	$(BIN)/python -m sims calibration --scale paper --table docs/calibration.md

# against Hugging Face's own implementation: installs torch and transformers, the extra `bench`
parity: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m pytest -n 0 -s tests/svtheory/checkpoints/test_parity.py tests/svtheory/export

# speed beside PyTorch: installs the extra `bench`; on a quiet machine
bench: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m benchmarks --json benchmarks/results/cpu.json

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs
