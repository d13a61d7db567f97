PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LIGHT := .venv-light
CONSTRAINTS := constraints.txt

.PHONY: demo test test-oldest .suite install browser figures example lab docs acceptance bench coverage gpu .rivals torture lint clean

# The main job: three arms on real text, figures at the end.
demo: install
	$(BIN)/dynamics study quickstart --output runs/quickstart

test: lint .suite

# All of the suite again with the oldest torch and transformers that are promised, in an environment of its own (5 GB: that
# torch comes with CUDA's libraries). Linters run with the newest alone.
test-oldest:
	$(MAKE) -s .suite VENV=.venv-oldest CONSTRAINTS=constraints-torch-2.11.txt

.suite: install $(LIGHT)/.installed browser
	OMP_NUM_THREADS=1 DYNAMICS_LIGHT_PYTHON=$(abspath $(LIGHT))/bin/python $(BIN)/python -m pytest -n 2

# The full length of what `make test` shortens: the wheel in an environment of its own runs the quickstart.
acceptance: install
	$(BIN)/python -m pytest -s acceptance

# The figures and tables of the study that ships with the package, and of every summary in studies/, byte for byte. A
# summary that keeps the tokens of a task's results has its accuracy too.
figures: install
	$(BIN)/dynamics figures example --output figures
	set -e; for study in $(wildcard studies/*/study.json); do \
		folder="$$(dirname "$$study")"; \
		task="$$(grep -q '"gsm8k": {' "$$study" && echo --task gsm8k || true)"; \
		$(BIN)/dynamics figures "$$folder" $$task --output "figures/study-$$(basename "$$folder")"; \
	done

# The study that ships, all anew from one that was trained (recipes/example.yaml): its archives, figures, the numbers of
# pages, notebooks, pictures. What pages say in words is for a person: tests fail where it is no longer so.
STUDY ?= runs/example
example: install browser
	$(BIN)/python -m dynamics.example.pack $(STUDY)
	$(MAKE) figures
	$(BIN)/python -m recipes.study.findings
	DYNAMICS_REFRESH_PAGES=1 $(BIN)/python -m pytest -q tests/example tests/docs/test_snippets.py
	$(BIN)/python tests/test_notebooks.py
	$(BIN)/python docs/images/make.py

# The handbook and the reference as a site: build/docs/index.html. A warning is an error.
docs: install
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

# JupyterLab on the notebooks.
lab: install
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[notebooks]'
	$(BIN)/jupyter lab analysis_notebooks

# Speed: ratios in one process, interleaved; results in benchmarks/results, and in docs/performance.md. Run it on a machine that does nothing else.
bench: install .rivals
	$(BIN)/python -m benchmarks.head --threads 1
	$(BIN)/python -m benchmarks.step --threads 1
	$(BIN)/python -m benchmarks.signal_source
	$(BIN)/python -m benchmarks.weight_averaging
	$(BIN)/python -m benchmarks.aggregation
	$(BIN)/python -m benchmarks.explorer
	$(BIN)/python -m benchmarks.report

# How often intervals hold the truth in simulated studies: benchmarks/results/coverage.json and docs/coverage.md, in twenty
# minutes on two cores.
coverage: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.report

# All that is claimed of CUDA, proved and measured in eight minutes, and docs/gpu.md made from it. On a machine that has
# torch for its device already: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),install .rivals)
	status=0; $(GPU_PYTHON) -m benchmarks.gpu || status=$$?; $(GPU_PYTHON) -m benchmarks.report; exit $$status

.rivals:
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[benchmarks]'

# What can go wrong at length: kills, corruptions, a full disk (needs root, or says that it is skipped), ten minutes of
# random input. The figures are in docs/reliability.md.
torture: install
	mkdir -p build/torture
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/kills.py --instants 60 --output build/torture/kills.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/kills.py --methods --output build/torture/kills-methods.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/corruptions.py --corruptions 200 --output build/torture/corruptions.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/full_disk.py --output build/torture/full-disk.json
	OMP_NUM_THREADS=1 DYNAMICS_FUZZ_SECONDS=600 $(BIN)/python -m pytest -s tests/fuzz

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) constraints-shared.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

# Pages are tested in Debian's Chromium. Where it is neither there nor can be installed, these tests say that they are
# skipped, and fail with DYNAMICS_BROWSER=required.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no chromium: install Debian's package of that name to test pages"

# Records, analysis and plots work where torch is not installed: this is such a place.
$(LIGHT)/.installed: pyproject.toml constraints.txt constraints-shared.txt
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python -m pip install -q -c constraints.txt numpy scipy matplotlib seaborn tueplots xarray pandas pydantic pyyaml typer rich safetensors filelock platformdirs pytest
	$(LIGHT)/bin/python -m pip install -q -c constraints.txt --no-deps -e .
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy dynamics

clean:
	rm -rf $(VENV) .venv-oldest $(LIGHT) build dist *.egg-info
