# make study [PRESET=smol] [CORES=2]   build the models, run every notebook, leave figures and tables
# make sweep [PRESET=smol] [CORES=2]   the long statistics over seeds, into data/sweeps; goes on where it stopped
# make figures [PRESET=smol] [VENUE=neurips]   every figure from its CSV: icml, iclr, acl; no models, no torch
# make venv                            the environment alone, in .venv
# make lab                             JupyterLab on the first notebook
# make bench                           speed and memory beside the least work possible, benchmarks/results
# make book                            the website of notebooks, figures, package and cards, in artifacts/book
# make test                            lint, unit tests, every notebook on the tiny family
# Either sets up .venv first, from nothing, and needs Python 3.11.

PRESET ?= smol
CORES ?= 2
VENUE ?= neurips
PYTHON := $(shell for python in python3.11 python3; do $$python -c \
	'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES) --config preset=$(PRESET)
say = @printf '\n== %s\n'

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python caches the bytecode of what is used, rather than pip that of all that is installed.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: venv study sweep figures lab book test test-all lint bench coverage mutants audit lock keep clean
.DELETE_ON_ERROR:

venv: $(READY)
	$(say) "The environment is in .venv"

study: $(READY)
	$(say) "Study of the preset $(PRESET): 13 to 21 minutes for smol and 6 to 10 for tiny from nothing, seconds if nothing changed"
	@$(SNAKEMAKE)
	$(say) "Done: notebooks in artifacts/$(PRESET)/notebooks, figures and tables in figures/$(PRESET)"

sweep: $(READY)
	$(say) "Sweep of the preset $(PRESET): about 80 minutes for smol and 12 for tiny from nothing, seconds if nothing is missing"
	@$(SNAKEMAKE) -- sweep
	$(say) "Done: tables in data/sweeps/$(PRESET)"

figures: $(READY)
	$(say) "Figures of the preset $(PRESET) for $(VENUE): about 30 seconds"
	@$(BIN)/python tools/redraw_figures.py --preset $(PRESET) --venue $(VENUE)

lab: $(READY)
	$(say) "JupyterLab on notebook 00; Control-C twice ends it"
	@$(BIN)/jupyter lab notebooks/00_models_and_data.ipynb

book: $(READY)
	$(say) "Book: about 1 minute from nothing; a warning is an error"
	@$(BIN)/python tools/book.py

test test-all: export HF_HUB_OFFLINE := 1
test test-all: override PRESET := tiny
test: SLOW := -m "not slow"
test test-all: lint
	$(say) "Unit tests: about 4 minutes"
	@$(BIN)/python -m pytest --numprocesses $(CORES) --ignore tests/notebooks $(SLOW)
	$(say) "Every notebook on the tiny family: about 6 minutes from nothing"
	@$(SNAKEMAKE) figures=artifacts/tiny/figures
	$(say) "Tests of the notebooks, as committed and as just run: seconds"
	@$(BIN)/python -m pytest tests/notebooks $(SLOW)

lint: $(READY)
	$(say) "Lint: seconds; types: about 1 minute from nothing, then seconds"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(READY)
	$(say) "Benchmarks: minutes; let nothing else run meanwhile"
	@for script in recording checkpoints patching; do $(BIN)/python benchmarks/$$script.py || exit 1; done

# What holds the tests and the lock to account; see docs/testing.md.
coverage: export HF_HUB_OFFLINE := 1
coverage: $(READY)
	$(say) "Coverage of actlib by the fast tests, notebooks left out: minutes"
	@$(BIN)/python -m pytest --numprocesses $(CORES) --ignore tests/notebooks -m "not slow" \
		--cov=actlib --cov-report=term:skip-covered --cov-fail-under=90

mutants: export OMP_NUM_THREADS := 1
mutants: export HF_HUB_OFFLINE := 1
mutants: $(READY)
	$(say) "Mutation testing of channels, masks, transfer and recording: minutes"
	@$(BIN)/python -m venv artifacts/tools/mutmut
	@artifacts/tools/mutmut/bin/pip install --quiet mutmut==3.8.1
	@PYTHONPATH="$$(echo $(CURDIR)/.venv/lib/python3.*/site-packages)" \
		artifacts/tools/mutmut/bin/mutmut run --max-children $(CORES)
	@artifacts/tools/mutmut/bin/mutmut results

audit: $(READY)
	$(say) "Known vulnerabilities of the locked packages: needs the network"
	@$(BIN)/python -m venv artifacts/tools/audit
	@artifacts/tools/audit/bin/pip install --quiet pip-audit==2.10.1
	@artifacts/tools/audit/bin/pip-audit --strict --no-deps --disable-pip \
		--requirement requirements.lock --requirement requirements-torch.lock

lock: $(READY)
	$(say) "Hashes of the locked packages: minutes; needs the network"
	@$(BIN)/python tools/lock.py

# For maintainers: what a run of the default left becomes what readers see.
keep: override PRESET := smol
keep: study
	$(say) "Keeping the executed notebooks: seconds"
	@$(BIN)/python tools/keep_notebooks.py artifacts/smol/notebooks
	@$(BIN)/python tools/readme_findings.py
	@$(SNAKEMAKE) --touch --quiet all
	@$(BIN)/python -m pytest tests/notebooks

clean:
	rm -rf .venv artifacts .snakemake .pytest_cache .ruff_cache .mypy_cache actlib.egg-info

$(READY): requirements.lock requirements-torch.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11 with its venv module as python3.11 or python3"; exit 1; }
	$(say) "Environment .venv: about 2 minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --quiet --no-compile --no-deps --requirement requirements.lock
	@$(BIN)/pip install --quiet --quiet --no-compile --requirement requirements-torch.lock
	@$(BIN)/pip install --quiet --quiet --no-compile --no-deps --no-build-isolation --editable .
	@touch $@
