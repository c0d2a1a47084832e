# What a newcomer needs: Python 3.11 or newer, git and make. `make help` lists the commands.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
STUDY := cifar100
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help study test mutants cifar100 photographs bench site notebooks install clean

help:  ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 12

study: install  ## run the embedded study, whatever of it is not up to date, and write reports/glyphs
	@echo "The embedded study: six notebooks and a report, about 5 minutes on two CPU cores; bars show how far each step is."
	$(BIN)/dvc repro
	$(BIN)/python -m pipeline.report sets glyphs
	$(BIN)/python -m pipeline.report explorer
	$(BIN)/python -m pipeline.report overview

test: install  ## check the style, test both packages, and run every notebook in its tiny profile
	$(BIN)/ruff check .
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile tests
	$(BIN)/pytest -q --nbval notebooks/

mutants: install  ## count the mutants of spaces, dropout, decoding and store that tests notice, two hours; MUTANTS="eas.dropout*": few
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[mutation]'
	OMP_NUM_THREADS=1 $(BIN)/mutmut run $(MUTANTS)
	@$(BIN)/mutmut results | grep -v 'not checked$$' || true
	@$(BIN)/mutmut export-cicd-stats
	@$(BIN)/python -c 'import json; of = json.load(open("mutants/mutmut-cicd-stats.json")).__getitem__; \
	  seen, missed = (sum(map(of, each)) for each in (["killed", "timeout"], ["survived", "no_tests", "suspicious"])); \
	  print(f"{seen} of {seen + missed} mutants noticed, {seen / (seen + missed):.1%}"); exit(seen <= 0.85 * (seen + missed))'

cifar100: install  ## run the CIFAR-100 study; STUDY=cifar100_cpu: its reduced form (fetches the images where they are missing)
	$(BIN)/python -m eas.data cifar100
	$(BIN)/dvc repro pipeline/dvc.yaml:report@$(STUDY)
	$(BIN)/python -m pipeline.report sets $(STUDY)
	$(BIN)/python -m pipeline.report explorer
	$(BIN)/python -m pipeline.report overview

photographs: STUDY := miniimagenet
photographs: install  ## run a study of image folders that you put into data/; STUDY=imagenet10: the paper's setting (see README)
	$(BIN)/dvc repro pipeline/dvc.yaml:report@$(STUDY)
	$(BIN)/python -m pipeline.report sets $(STUDY)
	$(BIN)/python -m pipeline.report explorer
	$(BIN)/python -m pipeline.report overview

bench: install  ## time it side by side with once-for-all, 20 to 30 minutes on a quiet machine, and write reports/benchmarks
	$(BIN)/python -m benchmarks $(PARTS)
	$(BIN)/python -m pipeline.report overview

site: install  ## render README, reports, executed notebooks and explorer as static pages: build/site/index.html
	$(BIN)/python -m pipeline.report site

notebooks: install  ## run the notebooks' tiny profile in place, for fresh outputs to commit
	$(BIN)/python notebooks/conftest.py notebooks/*.ipynb

install: $(STAMP)  ## make .venv and install into it; again only when pyproject.toml has changed

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[study,bench,onnx,cluster]'
	@test -e .git || $(BIN)/dvc config core.no_scm true  # an unpacked archive: DVC would look for git
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer: name one, as in make study PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

clean:  ## delete what the studies wrote to build/ (`dvc repro` brings it back from its cache)
	rm -rf build mutants .pytest_cache .ruff_cache
