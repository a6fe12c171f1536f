# `make table4` and `make test` set up everything they need. Python 3.11 to 3.14 is all that must be there.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.14 python3.11; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
ENGINES := slurmctld slurmd slurm-client postgresql chromium fonts-dejavu-core
export STAR_HOME ?= runs
THEIRS := data/fashion-mnist/train-images-idx3-ubyte
DATA := $(STAR_HOME)/$(THEIRS)
# the tests read the checkout's own, whatever home is chosen
TESTS := runs/$(THEIRS)
test gpu mutants: export STAR_HOME := runs
# where it is set, as in many containers, each of the many processes would compile torch again: that takes longer than most jobs
unexport PYTHONDONTWRITEBYTECODE

# what reports/ holds: tables 3 to 6 and the figures with three seeds, table 1's B and L rows with one; and after them
# star-exp run experiments/tokenizer.yaml, which wants `pip install -e '.[tokenizer]'`,
# star-exp run of noise, mask, scaling and objectives.yaml, star-exp search experiments/search_alpha_beta_r.yaml,
# star-exp search experiments/search_probe_and_fd.yaml --warm-start, star-exp report --all --out reports; reports/more_seeds: `run --seeds auto`
# of those tables in a home of its own; reports/gpu: `make gpu`; reports/benchmarks: tests/benchmarks
EXPERIMENTS := star_vs_baseline table4 table3 table5 table6 figure1 figure4

.PHONY: help linux table4 paper test gpu mutants check docs engines secrets data env lock clean

help:
	@echo 'make table4   set up, fetch Fashion-MNIST, run one seed of experiments/table4.yaml, write runs/reports/table4'
	@echo 'make paper    set up, run tables 1 (rows B and L), 3 to 6 and the figures with three seeds: an hour and a half on two recent cores; write runs/reports/'
	@echo 'make test     set up, fetch Fashion-MNIST, check the code, run the tests (as root on Debian: install Slurm, PostgreSQL and Chromium for them)'
	@echo 'make gpu      on a machine with a GPU: set up, run the tests that need one, measure; write reports/gpu/'
	@echo 'make docs     the documentation as a site, in site/'
	@echo 'make secrets  fill secrets/ with random passwords for docker-compose.yml'
	@echo 'make clean    remove the environment and everything computed (runs/)'

# before anything is set up: `make env`, for planning, reports and the losses, goes on
linux:
	@test "$$(uname -s)" != Darwin || { echo 'jobs run on Linux only: use a Linux machine or a container;' \
	  'planning, reports, imports and the losses work on macOS after `make env` (docs/install.md)'; exit 1; }

table4: linux $(DATA)
	$(BIN)/star-exp run experiments/table4.yaml --seeds 0

paper: linux $(DATA)
	for name in $(EXPERIMENTS); do $(BIN)/star-exp run experiments/$$name.yaml || exit; done
	$(BIN)/star-exp run experiments/table1.yaml --rows 'LlamaGen-[BL][, ]*'
	$(BIN)/star-exp report --all

test: linux $(TESTS) check engines
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# on a machine with a GPU
gpu: linux $(TESTS) env
	$(BIN)/pytest tests/gpu
	$(BIN)/python -m tests.gpu.figures

# what the tests of the numerics notice: hours; the result is docs/mutants.md
mutants: $(TESTS) env
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	$(BIN)/python -m tests.mutation --by-hand || true
	$(BIN)/python -m tests.mutation

# real servers that the tests start by themselves; without them those tests are skipped, and say so
engines:
	@if command -v slurmctld >/dev/null && command -v chromium >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(ENGINES) >/dev/null \
	    || echo "Slurm, PostgreSQL and Chromium could not be installed: tests on them will be skipped"; \
	else echo 'no Slurm, PostgreSQL or Chromium here: tests on them will be skipped; on Debian: sudo apt-get install $(ENGINES)'; fi

check: env
	$(BIN)/ruff check star star_objectives dashboards tests docs/site_hooks.py requirements
	$(BIN)/ruff format --check star star_objectives dashboards tests docs/site_hooks.py requirements
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(MAKE) --no-print-directory docs

# the documentation as a site, in site/; a link that leads nowhere fails
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# random passwords for docker-compose.yml, once; the S3 keys are for its profile `s3` alone
secrets:
	@umask 077; mkdir -p secrets; for name in postgres_password mlflow_password mlflow_secret_key board_token; do \
	  test -s secrets/$$name || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > secrets/$$name; done; \
	test -s secrets/s3_config.json || printf '{"identities": [{"name": "star", "credentials": [{"accessKey": "star", "secretKey": "%s"}], "actions": ["Admin"]}]}\n' \
	  "$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" > secrets/s3_config.json; \
	chmod 444 secrets/*; echo 'secrets/ is filled; only you can enter that folder'

data: $(DATA)

env: .venv/tools

$(sort $(DATA) $(TESTS)): | .venv/ready
	$(BIN)/star-exp data fetch fashion-mnist --home $(@:/$(THEIRS)=)

# Everything is installed by the hashes in requirements/, so a file that is not the one that was tried is refused. torch is
# PyPI's build (on Linux with CUDA's libraries, gigabytes), or the small one for CPUs where the index is named that has it:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make table4. `make test LOCK=` takes the newest that
# pyproject.toml allows. Python compiles what it imports at the first import: half of what is installed never is.
LOCK ?= yes
pip = $(BIN)/python -m pip install --disable-pip-version-check --no-compile
locked = $(pip) --no-deps --require-hashes --requirement requirements
count = $$(grep -c == requirements/$(1).lock) packages

.venv/ready: uv.lock requirements/run.lock pyproject.toml
	@test -n '$(PYTHON)' || { echo 'Python 3.11 to 3.14 is needed: install one, or name it with `make PYTHON=/path/to/python3.13 ...`'; exit 1; }
	@case "$$(uname -s)" in Linux|Darwin) ;; *) echo 'star runs on Linux: on Windows use it in WSL, where it is what it is on Linux'; exit 1;; esac
	@echo "an environment for $$($(PYTHON) -V), in .venv"
	@$(PYTHON) -m venv .venv
ifeq ($(LOCK),)
	$(pip) --editable '.[slurm,search,postgres]'
else
	@echo '1 of 3: torch'
	@$(locked)/cpu.lock 2>/dev/null || { echo "pip's indexes have no build of torch for CPUs alone: PyPI's"; $(locked)/torch.lock; }
	@! $(BIN)/pip show torch | grep '^Requires:.*cuda' >/dev/null || { echo "CUDA's libraries: $(call count,cuda)"; $(locked)/cuda.lock; }
	@echo "2 of 3: $(call count,run), a minute"
	@$(locked)/run.lock --quiet
	@echo '3 of 3: star itself'
	@$(pip) --no-deps --no-build-isolation --quiet --editable .
endif
	@touch $@

# what the tests, the linters and the services need besides
.venv/tools: .venv/ready
ifeq ($(LOCK),)
	$(pip) --editable '.[ray,services,tokenizer,test]'
else
	@echo "for the tests: $(call count,all) in all, half a minute"
	@$(locked)/all.lock --quiet
endif
	@touch $@

# after a change of what pyproject.toml needs; `uv lock --upgrade` first, for newer versions
lock:
	uv lock
	python3 requirements/write.py

clean:
	rm -rf .venv runs site
