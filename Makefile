# make study [PRESET=tiny]    models, then every notebook on the first seed: artifacts/PRESET/study
# make sweep [PRESET=tiny]    the same notebooks on all seeds and settings: artifacts/PRESET/sweep
# make figures [VENUE=acl]    every kept figure from its table, no torch: artifacts/figures/VENUE
# make test                   lint, types, unit tests, every notebook on a family trained in haste
# make test-all               the slow tests too, and every notebook on the tiny family
# make lab                    JupyterLab on the first notebook
# make book                   notebooks, figures, package and cards as a website in artifacts/book
# make dist                   source archive and wheel of the package in artifacts/dist
# make venv                   the environment alone, in .venv, which each of the above makes first
# Also: CORES=2, PYTHON=python3.12, figures RESULTS=folder. PRESET: a name in configs/, or a YAML.
PRESET ?= tiny
CORES ?= 2
VENUE ?= neurips
# The Python of .venv is kept until another is asked for; the first one is what is here.
PYTHON := $(shell for python in .venv/bin/python python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
VERSION := $(shell "$(PYTHON)" -c 'import ensurepip, sys; \
	sys.version_info < (3, 11) or print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := .venv/bin
READY := .venv/.ready-$(VERSION)
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES) --config preset=$(PRESET) --
FAST := -m "not slow"

export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # pip compiles nothing, so Python does what is used
.PHONY: venv study sweep keep figures lab book dist test test-all lint audit lock clean

venv: $(READY)

study: $(READY)
	@$(BIN)/actlib run $(PRESET) --cores $(CORES)

sweep: $(READY)
	@$(SNAKEMAKE) sweep

# For maintainers, and alone in changing tracked files; stops at sentences that numbers contradict.
keep: $(READY)  # those of notebooks are of tiny; of another family figures, tables and rows are kept
	@$(SNAKEMAKE) $(if $(filter tiny,$(PRESET)),keep,sweep)
	@$(BIN)/python tools/keep.py $(PRESET)
	@$(BIN)/python tools/write_findings.py

figures: $(READY)
	@$(BIN)/python -c 'import actlib.analysis.drawing as draw; draw.redraw_figures("$(or $(RESULTS),$(if $(filter %.yaml,$(PRESET)),artifacts/$(notdir $(PRESET:.yaml=))/study/results,figures/$(PRESET)))", "artifacts/figures/$(VENUE)", "$(VENUE)")'

lab: $(READY)
	@$(BIN)/jupyter lab notebooks/00_models_and_data.ipynb

dist: $(READY)
	@rm -rf artifacts/dist && mkdir -p artifacts/dist
	@$(BIN)/python -c 'from setuptools.build_meta import build_sdist; build_sdist("artifacts/dist")' > /dev/null
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir artifacts/dist artifacts/dist/*.tar.gz
	@ls artifacts/dist

book: $(READY)
	@$(BIN)/python tools/book.py

test test-all: export HF_HUB_OFFLINE := 1
test: export FAMILY := quick
test-all: export FAMILY := tiny
test-all: FAST :=
test test-all: lint
	@$(BIN)/python -m pytest --numprocesses $(CORES) --ignore tests/notebooks $(FAST)
	@$(BIN)/python tests/quick_family.py artifacts/quick.yaml
	@$(BIN)/actlib run $(FAMILY:quick=artifacts/quick.yaml) --cores $(CORES)
	@$(BIN)/python -m pytest tests/notebooks $(FAST)

lint: $(READY)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

audit: $(READY)
	@$(BIN)/python -m venv artifacts/audit && artifacts/audit/bin/pip install --quiet pip-audit==2.10.1
	@artifacts/audit/bin/pip-audit --strict --no-deps --disable-pip \
		--requirement requirements.lock --requirement requirements-torch.lock

lock:  # not by .venv, into which the edited lock could not be installed
	@"$(PYTHON)" tools/lock.py

clean:
	rm -rf .venv artifacts .snakemake .pytest_cache .ruff_cache .mypy_cache actlib.egg-info

$(READY): requirements.lock requirements-torch.lock pyproject.toml
	@test -n "$(VERSION)" || { echo "error: need Python 3.11 or newer with its venv module, as make PYTHON=..."; exit 1; }
	@test -d .venv/lib/python$(VERSION) || rm -rf .venv; "$(PYTHON)" -m venv .venv
	@$(BIN)/pip install --quiet --quiet --no-compile --no-deps --requirement requirements.lock
	@$(BIN)/pip install --quiet --quiet --no-compile --requirement requirements-torch.lock
	@$(BIN)/pip install --quiet --quiet --no-compile --no-deps --no-build-isolation --editable .
	@touch $@
