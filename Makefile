# Two commands: `make lab` opens the first lesson, `make test` runs every test and every notebook.
# `test` has two workers, each a file at a time. Both commands first create the environment .venv (once).
# A third, `make browser`, tries the page of the editing session in Chromium, which must be installed.
# Another interpreter: make lab PYTHON=python3.12

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Jupyter refuses to run as root, which is who one is in most containers.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: lab test browser clean

lab: $(STAMP)
	$(BIN)/jupyter lab $(AS_ROOT) --config=docs/jupyterlab/config.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

browser: $(STAMP)
	$(BIN)/uv pip install --python $(BIN)/python --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest tests/browser/page_in_chromium.py

# uv resolves and downloads in seconds; it lives inside the environment, so nothing else is touched.
# Compiled at once: uv leaves that to the first import, and where Python may not write, to every import.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "qwenlab needs Python 3.11 or newer, and '$(PYTHON)' is not: install one and name it, for example: make $(or $(MAKECMDGOALS),lab) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[notebooks,training,test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build
