# Two commands for a fresh machine: `make run` shows the loop, `make test` proves it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: run test test-mlflow lint clean

run: $(READY)
	$(BIN)/python cli.py run --steps 50

test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# MLflow's client is 60 MB with what it needs: whoever mirrors to it installs it. Its server is 850 MB, in a venv of
# its own, as it pins what we do not.
test-mlflow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mlflow]'
	test -x $(VENV)-mlflow/bin/mlflow || $(PYTHON) -m venv $(VENV)-mlflow
	$(VENV)-mlflow/bin/python -m pip install --quiet --disable-pip-version-check "mlflow==$$(sed -n 's/^mlflow-skinny==//p' constraints.txt)"
	EVORANK_MLFLOW_SERVER=$(CURDIR)/$(VENV)-mlflow/bin/mlflow $(BIN)/python -m pytest tests/graph/test_mirror.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pins first: an unpinned torch would be gigabytes of CUDA.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-mlflow build dist *.egg-info
