PYTHON ?= python3
BIN := .venv/bin
# what imports and uses each package that svtheory and sims depend on, in some minutes
OLDEST := $(addprefix tests/,test_bad_options.py svtheory/reports svtheory/heads/test_bundles.py \
	svtheory/checkpoints/test_texts.py svtheory/checkpoints/test_checkpoint.py svtheory/checkpoints/test_read_dictionary.py \
	svtheory/spectra/test_spectra.py svtheory/instruments/test_spectra_of_heads.py sims/engines/test_ensemble.py \
	sims/lab/test_command.py sims/test_single_pair.py proofs/engine)
# `make test` skips what is marked slow; `make slow` runs that alone.
.PHONY: run test slow torture oldest calibration parity bench docs examples lint clean

run: .venv/sims
	$(BIN)/python -m sims ledger --scale quick

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow"

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

# kills, damages and garbles, and counts what comes of it: most of an hour on one core; goes on where it was stopped
torture: .venv/installed
	$(BIN)/python -m tests.torture --folder runs/torture --table docs/torture.md

# the lowest versions that pyproject.toml allows, in an environment of their own, and the tests that need most of them
oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 0 -m "not slow" -W ignore::DeprecationWarning -W ignore::FutureWarning $(OLDEST)

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

# the site, into site/html: its pages show the notebooks as they ran
docs: examples
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site/html

# the notebooks, run where their source has changed, into docs/examples/
examples: .venv/examples $(patsubst examples/%.py,docs/examples/%.ipynb,$(wildcard examples/*.py))

docs/examples/%.ipynb: examples/%.py
	mkdir -p $(@D)
	$(BIN)/jupytext --quiet --to ipynb --set-kernel python3 --run-path . --execute --output $@ $<

.venv/examples: .venv/sims
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[examples]"
	touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# what experiments need, and beside it what tests need
.venv/sims: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[sims]"
	touch $@

.venv/installed: .venv/sims
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) -m tests.oldest > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-oldest/requirements.txt \
		--editable . pytest pytest-xdist hypothesis
	touch $@

clean:
	rm -rf .venv .venv-oldest runs site docs/examples docs/reference docs/instruments
