# A fresh machine needs two commands: `make demo` and `make test`. Both install what they need into .venv.

PYTHON ?= python3
# Which set of versions is installed: upstream (workstations, tests) or intel (torch 2.8 with Intel's extension).
STACK ?= upstream
# torch's CPU wheels: a tenth of the package registry's, which are taken where this index does not answer.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(STACK)
LLM_FINETUNE := $(BIN)/llm-finetune
DEMO := demo/out

# Where the peers that `make benchmark` compares with are installed.
export PEERS ?= $(HOME)/.cache/llm-finetune/peers

.PHONY: help install demo demo-files test fuzz faults cluster-test lint prose docs typecheck benchmark benchmark-peers generate lock dist clean

help:
	@echo "make demo        make a small model, fine-tune it and see that it learned (5 minutes)"
	@echo "make demo-files  the demo's model and records in $(DEMO)/seleki, for a cluster"
	@echo "make test        lint, type checks and tests"
	@echo "make prose       how documentation, comments and messages read: a part of lint that needs vale, or Go to build it"
	@echo "make fuzz        feed every reader what no user would write  [FUZZ_TIMES=20]"
	@echo "make faults      kill jobs at every turn and see that they go on (up to 20 minutes)"
	@echo "make cluster-test  install, run and break jobs on a Kubernetes cluster (20 minutes)  [VALUES=FILE]"
	@echo "make docs        the documentation's site, in build/site"
	@echo "make install     what both need, into $(VENV)   [STACK=upstream|intel] [PYTHON=python3.12]"
	@echo "make generate    write anew what comes from the settings' models: values.yaml, schema, configuration page"
	@echo "make benchmark   measure it in turns with what else there is, which is installed first (40 minutes)"
	@echo "make dist        wheel, source package and chart package, into dist/"
	@echo "make lock        pin the newest versions that fit, with their hashes"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(wildcard requirements/*)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is `$(PYTHON) --version`; Python 3.11 to 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" TORCH_INDEX=$(TORCH_INDEX) \
	  requirements/install.sh $(STACK) --requirement pyproject.toml --extra test --extra mlflow
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --require-hashes --no-build --requirement requirements/docs.txt
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --no-deps --editable . \
	  --build-constraints requirements/build.txt --require-build-hashes
	touch $@

demo: $(INSTALLED)
	@start=`date +%s`; set -e; $(MAKE) --no-print-directory demo-files; \
	$(LLM_FINETUNE) run -f demo/finetune_values.yaml; \
	$(BIN)/python -W ignore demo/exact_match.py $(DEMO); \
	echo "demo: done in $$((`date +%s` - start)) s; the report: $(DEMO)/adapter/report.html"; \
	echo "demo: ask it yourself: $(LLM_FINETUNE) chat $(DEMO)/adapter --instruction 'Make this small.'"

# What demo_values.yaml asks for on a cluster's volume, in one folder.
demo-files: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/python demo/make_files.py $(DEMO)
	$(LLM_FINETUNE) run -f demo/pretrain_values.yaml
	mkdir $(DEMO)/seleki
	cp -r $(DEMO)/base $(DEMO)/train.jsonl $(DEMO)/heldout.jsonl $(DEMO)/seleki
	@echo "$(DEMO)/seleki: what demo_values.yaml reads; copy it to the volume as the release's notes say, from $(DEMO)"

test: lint typecheck
	$(BIN)/pytest

fuzz: export FUZZ_TIMES ?= 20
fuzz: $(INSTALLED)
	$(BIN)/pytest -m fuzz

faults: $(INSTALLED)
	$(BIN)/pytest -m faults --timeout 1000 tests/faults

lint: $(INSTALLED) docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python -m llm_finetune.config.codegen --check
	$(BIN)/helm lint . --strict --quiet
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck requirements/*.sh .vale/install.sh .ci/run
	@if $(MAKE) --no-print-directory --silent $(BIN)/vale; then $(MAKE) --no-print-directory prose; \
	else echo "lint: prose was not checked, as there is no vale: see above"; fi

# What .vale.ini says of how the project reads.
PROSE := $(wildcard *.md) docs src demo benchmarks values.schema.json templates/NOTES.txt
prose: $(BIN)/vale
	$(BIN)/vale --output=line --glob='*.{md,py,c,cpp,h,json,txt}' $(PROSE)

$(BIN)/vale: .vale/install.sh
	.vale/install.sh $@
	touch $@

# Strict: a page that is not in the navigation, a missing file or heading fails. With --quiet none does: it hides the
# warnings that are counted. lychee reads what is outside of the site.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict
	$(BIN)/lychee --offline --include-fragments --no-progress --quiet *.md .github docs

typecheck: $(INSTALLED)
	$(BIN)/mypy

# On the cluster that the kubeconfig names, with VALUES=FILE for its image and storage; else on the test cluster.
cluster-test: $(INSTALLED)
	$(BIN)/pytest -m cluster tests/cluster -v --durations=10 --timeout=600 --override-ini=timeout_func_only=true

generate: $(INSTALLED)
	$(BIN)/python -m llm_finetune.config.codegen

# The hashes of torch's CPU wheels are those of TORCH_INDEX, which must answer for that.
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links
lock:
	set -e; for stack in upstream intel; do \
	  $(LOCK) pyproject.toml requirements/$$stack.in --extra test --extra mlflow --output-file requirements/$$stack.txt; \
	  sed -n 's/^torch==[^ ]*/&+cpu/p' requirements/$$stack.in | \
	    $(LOCK) - --no-deps --default-index $(TORCH_INDEX) --output-file requirements/$$stack-cpu.txt; \
	done
	$(LOCK) requirements/uv.in --output-file requirements/uv.txt
	$(LOCK) requirements/source.in --no-deps --output-file requirements/source.txt
	$(LOCK) requirements/build.in --output-file requirements/build.txt
	$(LOCK) requirements/docs.in --output-file requirements/docs.txt
	$(LOCK) requirements/openmp.in --no-deps --output-file requirements/openmp.txt

# What a release hands out, beside the image.
dist: $(INSTALLED)
	rm -rf dist
	$(BIN)/uv build --quiet --build-constraints requirements/build.txt --require-hashes --out-dir dist
	$(BIN)/helm package . --destination dist

# On an idle machine: 40 minutes on two cores. Tables, JSON and pictures: benchmarks/results.
benchmark: $(INSTALLED) benchmark-peers
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/preparation.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/recovery.py

benchmark-peers: $(INSTALLED) $(PEERS)/trl/.installed $(PEERS)/llamafactory/.installed $(PEERS)/llama-cpp/.installed

$(PEERS)/trl/.installed: PACKAGES := torch==2.13.0 transformers==5.23.0 peft==0.21.2 datasets==5.2.0 trl==1.16.0
$(PEERS)/llamafactory/.installed: PACKAGES := torch==2.11.0 torchaudio==2.11.0 llamafactory==0.9.5
$(PEERS)/llama-cpp/.installed: PACKAGES := numpy gguf llama-cpp-python==0.3.36 --no-binary llama-cpp-python

$(PEERS)/%/.installed:
	$(BIN)/uv venv --quiet --allow-existing $(@D)
	$(BIN)/uv pip install --python $(@D)/bin/python --compile-bytecode $(PACKAGES)
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist
