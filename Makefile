# make demo: install and run the demo · make test: the fast tests · make check: what CI checks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export HYDRA_FULL_ERROR := 0

.PHONY: demo test test-slow check docs bench format clean

demo: $(VENV)/.installed
	$(BIN)/fedkd simulate scenario=noniid_strong

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed-slow
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/zensical build --clean

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/grid_overhead.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS_$*)]"
	touch $@

EXTRAS_dev := dev
EXTRAS_slow := dev,ray
EXTRAS_docs := docs
