# Every target works on a clean checkout; `make demo` first.

PYTHON ?= python3
BIN = .venv/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Whom the tests compare with. Without what they ask for: their torchvision would bring another torch.
# In a folder of their own, which only tests/peers.py opens: torchmetrics imports torch-fidelity
# wherever it finds it, and without torchvision that fails.
PEERS = torch-fidelity lpips open-clip-torch ftfy scipy

.PHONY: help install demo test lint bench mini-model clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: .venv/installed ## make .venv and install everything into it

# DeepSpeed is built where it is installed and asks for torch then; its operators compile on demand.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=python3.11 …")'
	@echo "installing into .venv, once: some minutes"
	@$(PYTHON) -m venv .venv
	@echo "  1 of 4: torch"
	@$(PIP) torch setuptools wheel ninja py-cpuinfo
	@echo "  2 of 4: deepspeed"
	@DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	@echo "  3 of 4: everything else"
	@$(PIP) --editable '.[dev]'
	@echo "  4 of 4: peers that the tests compare with"
	@$(PIP) --no-deps --upgrade --target .venv/peers $(PEERS)
	@touch $@

demo: install ## fine-tune the mini model on two ranks while a Ray farm scores every checkpoint
	@$(BIN)/letterpress submit recipes/mini.yaml --name demo-$$(date +%Y%m%d-%H%M%S) $(if $(SET),--set $(SET))

# Three at a time on two cores: much of a test is waiting.
test: install ## the whole test suite
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup --no-loadscope-reorder

lint: install ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install ## measure again what benchmarks/results/ says, on this machine
	@$(PIP) --editable '.[bench]'
	$(BIN)/python -m benchmarks.data_loading
	$(BIN)/python -m benchmarks.frechet
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.throughput
	$(BIN)/python -m benchmarks.terms
	$(BIN)/python -m benchmarks.terms_sd15
	$(BIN)/python -m benchmarks.terms_seconds
	$(BIN)/python -m benchmarks.ocr
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.farm
	$(BIN)/python -m benchmarks.neighbourhood

# Four hours on two cores. The encoders first; then the UNet by the ordinary trainer, in three rounds;
# then 16 bits of all, and the segmenter of its latents.
SECOND_ROUND = train.model=runs/mini-base/exports/step-00006000 train.seed=1 train.steps=5000 \
	train.optim.lr=8e-4 train.optim.warmup_steps=200
THIRD_ROUND = train.model=runs/mini-base-2/exports/step-00005000 train.seed=2 train.steps=6000 \
	train.optim.lr=8e-4 train.optim.warmup_steps=200 train.ema.decay=0.999

mini-model: install ## make assets/mini again, from nothing
	$(BIN)/python -m trainer.data build --config recipes/mini_base.yaml
	$(BIN)/python -m trainer.data build --config recipes/mini.yaml
	$(BIN)/python -m trainer.mini start --data data/mini-base data/mini --out data/mini-start
	$(BIN)/letterpress submit recipes/mini_base.yaml
	$(BIN)/letterpress submit recipes/mini_base.yaml --name mini-base-2 --set $(SECOND_ROUND)
	$(BIN)/letterpress submit recipes/mini_base.yaml --name mini-base-3 --set $(THIRD_ROUND)
	$(BIN)/python -m trainer.mini pack --start data/mini-start --run runs/mini-base-3 --out assets/mini
	rm -f assets/mini-segmenter.safetensors
	$(BIN)/python -m trainer.segmenter --config recipes/segmenter/mini.yaml

clean: ## remove what was installed, drawn and run
	rm -rf .venv data runs
