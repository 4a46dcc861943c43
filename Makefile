# make run    everything, here, now        make test       what CI runs
# make lint   style, types, imports        make test-full  the slow tests too
# make peers  other libraries, in an environment of their own, to compare with
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .peers

.PHONY: run test test-full lint install peers clean

run: install
	$(BIN)/python -m pipeline run

test: install lint
	$(BIN)/python -m pytest -m "not full"

test-full: install peers lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, and $(PYTHON) is older; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

peers: $(PEERS)/.installed

# torchvision comes along for nobody's use; its builds are for CUDA, and transformers fails on one that does not fit torch.
$(PEERS)/.installed: benchmarks/peers-constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, and $(PYTHON) is older; try: make PYTHON=python3.12 peers"; exit 2; }
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c $< torch sae-lens dictionary-learning eai-sparsify || \
	  { echo "error: the peers could not be installed; what is half there is in $(PEERS): repair the cause and run make peers again"; exit 1; }
	$(PEERS)/bin/python -m pip uninstall --quiet --disable-pip-version-check --yes torchvision
	@HF_HUB_OFFLINE=1 WANDB_MODE=disabled SPARSIFY_DISABLE_TRITON=1 \
	  $(PEERS)/bin/python -c 'import dictionary_learning, sae_lens, sparsify' || \
	  { echo "error: the peers are installed but do not import; remove $(PEERS) and run make peers again"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) .work .runs
