# make demo: install and run the demo · make test: the fast tests · make check: what CI checks
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
AUDIT := .audit
FULL_DATA := $(CURDIR)/.data/usr/share/datasets

.PHONY: demo test test-slow test-browser full-data chromium check audit-dependencies docs bench format clean

demo: $(VENV)/.installed
	$(BIN)/fedkd simulate scenario=noniid_strong

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow and not browser"

test-slow: $(VENV)/.installed-slow
	-$(MAKE) full-data
	-$(BIN)/python -c "import importlib.util as u, sys; sys.exit(not u.find_spec('byzfl'))" || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps byzfl==0.0.11
	FEDKD_DATA=$(FULL_DATA) $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

# Full FashionMNIST from Debian's package, without root; elsewhere see `fedkd data check`.
full-data: $(FULL_DATA)/fashion-mnist
$(FULL_DATA)/fashion-mnist:
	mkdir -p .data
	cd .data && apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .

test-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m browser

# A browser to look at reports with: Debian's package, which takes root; elsewhere install one.
chromium:
	command -v chromium >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r fedkd clients server

# Known vulnerabilities of what is installed; asks PyPI, so no part of `check`. See docs/security.md.
audit-dependencies: $(VENV)/.installed
	test -x $(AUDIT)/bin/pip-audit || \
	  { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet pip-audit; }
	$(BIN)/python -m pip freeze --exclude-editable | grep '==' > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit -s pypi --no-deps --disable-pip -r $(AUDIT)/installed.txt

docs: $(VENV)/.installed-docs
	$(BIN)/zensical build --clean

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/grid_overhead.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(AUDIT) .data build dist site *.egg-info

$(VENV)/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS_$*)]"
	touch $@

EXTRAS_dev := dev
EXTRAS_slow := dev,ray,fuzz
EXTRAS_docs := docs
