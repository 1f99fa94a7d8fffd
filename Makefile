# make run | test | lab | docs | bench | export | outputs | lint.  Without make: CONTRIBUTING.md, "Without make".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test test-tensorflow lab docs export outputs lint bench bench-chapters bench-gpu clean

help:
	@echo "make run      fine-tune the three-modality model on the embedded data (PROFILE=full: also unfrozen)"
	@echo "make test     every test and every notebook"
	@echo "make test-tensorflow  the Keras head of chapter 17 on TensorFlow, in an environment of its own (2 GB)"
	@echo "make lab      JupyterLab, open on the index"
	@echo "make docs     the documentation site, in _docs/"
	@echo "make export   notebooks -> mmtutor/, README.md and README.zh.md"
	@echo "make outputs  execute every notebook again and show which saved outputs differ"
	@echo "make bench    side by side with the peers, on an idle CPU, 15 minutes; then the budgets (DRY=1: toy sizes, nothing recorded)"
	@echo "make bench-chapters  seconds and memory of every notebook, 20 minutes"
	@echo "make bench-gpu  what only a GPU can show, ten minutes (DRY=1: toy sizes, on a CPU too)"
	@echo "make lint     ruff on notebooks, tests and scripts"

# The environment is made anew when what it is made from has changed.
$(VENV)/.stamp: constraints.txt settings.ini setup.py pyproject.toml
	@echo "==> setting up $(VENV) from constraints.txt (once; about two minutes and 2 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmtutor needs Python 3.11 or later; this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@grep '^torch==' constraints.txt > $(VENV)/torch.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(VENV)/torch.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

run: $(VENV)/.stamp
	@$(BIN)/mmtutor run $(if $(PROFILE),--profile $(PROFILE))

test: $(VENV)/.stamp
	@echo "==> building the embedded data if they are missing, then every test and every notebook"
	@$(BIN)/mmtutor data build
	@$(BIN)/python -m pytest

test-tensorflow:
	@$(PYTHON) -m venv .venv-tensorflow
	@grep '^torch==' constraints.txt > .venv-tensorflow/torch.txt
	@.venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-tensorflow/torch.txt
	@.venv-tensorflow/bin/python -m pip install --quiet --disable-pip-version-check -e '.[tensorflow]' pytest pytest-socket pytest-timeout -c constraints.txt
	@KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=2 .venv-tensorflow/bin/python -m pytest tests/test_keras_head.py

lab: $(VENV)/.stamp
	@$(BIN)/mmtutor lab

docs: $(VENV)/.stamp
	@$(BIN)/python scripts/build_docs.py

export: $(VENV)/.stamp
	@echo "==> nbs/ -> mmtutor/, README.md and README.zh.md"
	@$(BIN)/nbdev-export
	@$(BIN)/python scripts/readme.py

outputs: $(VENV)/.stamp
	@$(BIN)/python scripts/notebooks.py --check

lint: $(VENV)/.stamp
	@$(BIN)/ruff check .

bench: $(VENV)/.stamp
	@$(BIN)/mmtutor data build
	@$(BIN)/python benchmarks/run.py $(if $(DRY),--dry)

bench-chapters: $(VENV)/.stamp
	@$(BIN)/mmtutor data build
	@$(BIN)/python benchmarks/chapters.py

bench-gpu: $(VENV)/.stamp
	@$(BIN)/mmtutor data build
	@$(BIN)/python scripts/gpu_run.py $(if $(DRY),--toy)

clean:
	rm -rf $(VENV) _docs _proc build *.egg-info
