# What a person runs before pushing. PYTHON is the interpreter of the environment that rtcc is installed in.
PYTHON ?= .venv/bin/python

.PHONY: check lint types test golden package clean

check: lint types test

lint:
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m pyright

test:
	$(PYTHON) -m pytest -W error

golden:
	$(PYTHON) -m pytest tests/golden --update-golden

package:
	$(PYTHON) -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
