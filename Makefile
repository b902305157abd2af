# Every target sets up what it needs on a fresh machine with Python 3.11 or newer; nothing asks a model hub.
PYTHON ?= python3
VENV := .venv
COMPAT := .venv-compat
COMET := .comet
DEEPSPEED := .deepspeed
TRACKERS := .trackers
HARNESS := .harness
LLAMAFACTORY := .venv-llamafactory
AXOLOTL := .venv-axolotl
MODEL := .models/smollm2-135m-instruct
GEMMA := .models/gemma-3-270m
PARALLEL := -n 2 --dist worksteal
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-compat test-trackers test-harness test-trainers fuzz lint docs model model-gemma comet \
	deepspeed bench bench-gpu bench-signal evidence architectures recipes-smoke dist beside clean

demo: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/neuronxa demo --model $(MODEL)

# One process a core; each takes about 3 GB.
test: $(MODEL)/model.safetensors $(COMET)/neuronxa-comet-ready $(DEEPSPEED)/.ready
	$(VENV)/bin/python -m pytest $(PARALLEL)

# What touches transformers, again with version 4.57 and the lowest versions that pyproject.toml allows.
test-compat: $(COMPAT)/.ready $(MODEL)/model.safetensors $(DEEPSPEED)/.ready
	$(COMPAT)/bin/python -m pytest $(PARALLEL) -m "not unit and not once and not recipe"

# What W&B, MLflow, Trackio, Comet ML and Aim themselves record of a training.
test-trackers: $(VENV)/.ready $(COMET)/neuronxa-comet-ready $(TRACKERS)/.ready
	PYTHONPATH=$(TRACKERS) $(VENV)/bin/python -m pytest tests/trackers/test_trackers.py

# lm-evaluation-harness on a task of our own, and its results beside alignment (docs/how-to/against-benchmarks.md).
test-harness: $(VENV)/.ready $(HARNESS)/.ready
	PYTHONPATH=$(HARNESS) $(VENV)/bin/python -m pytest tests/harness

# The trainers that cannot live in $(VENV), each in its own environment. `make test` has TRL, Lightning and plain loops.
test-trainers: $(LLAMAFACTORY)/.ready $(AXOLOTL)/.ready
	$(LLAMAFACTORY)/bin/python -m pytest tests/trainers/test_llamafactory.py
	$(AXOLOTL)/bin/python -m pytest tests/trainers/test_axolotl.py

# The tests that draw their examples, at random and long. Keep each example that fails as an @example.
fuzz: $(VENV)/.ready
	$(VENV)/bin/python -m pytest -m hypothesis --hypothesis-profile fuzz

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The documentation site, in site/. A link, an anchor or a page that leads nowhere is an error.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

comet: $(COMET)/neuronxa-comet-ready

deepspeed: $(DEEPSPEED)/.ready

model: $(MODEL)/model.safetensors

# Prints Gemma's terms of use, and makes the model where GEMMA_TERMS=accepted says that you accept them. Nothing else
# needs it, and CI never makes it.
model-gemma: | $(VENV)/.ready
	GEMMA_TERMS=$(GEMMA_TERMS) $(VENV)/bin/python scripts/make_gemma.py $(GEMMA)

bench: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/python -m benchmarks.cost --model $(MODEL)
	$(VENV)/bin/python -m benchmarks.start --model $(MODEL)
	$(VENV)/bin/python -m benchmarks.arithmetic --model $(MODEL)

# Needs one NVIDIA GPU with 80 GB, and the bitsandbytes and torch that fit it.
bench-gpu: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/python -m benchmarks.gpu --tokenizer $(MODEL)

# What the claims about chance, intervals, correlations and stopping rest on. TATOEBA names the folder of LASER's
# Tatoeba test sets; without it, coverage is not measured.
bench-signal: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/python -m benchmarks.signal --model $(MODEL) $(if $(TATOEBA),--tatoeba $(TATOEBA))
	$(if $(TATOEBA),$(VENV)/bin/python -m benchmarks.coverage --model $(MODEL) --tatoeba $(TATOEBA))
	$(VENV)/bin/python -m benchmarks.correlations
	$(VENV)/bin/python -m benchmarks.rises
	$(VENV)/bin/python -m benchmarks.stopping

# Lists the runs of docs/results with their commands and times, and rebuilds its tables from what is recorded. With
# RUN=french-sft DATA=folder it makes that run anew, from nothing, out of the folder's corpora.
evidence: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/python -m benchmarks.evidence $(if $(RUN),--run $(RUN) --data $(DATA))

# Tries every causal language model type of both installed versions of transformers as a tiny random model against a
# plain forward pass, and rebuilds the tables of docs/reference/architectures.md. It takes about 20 minutes.
architectures: $(VENV)/.ready $(COMPAT)/.ready
	$(COMPAT)/bin/python -m benchmarks.architectures
	$(VENV)/bin/python -m benchmarks.architectures

# Both recipes on the small real model; run again, or after an interruption, they go on from their last checkpoint.
recipes-smoke: $(VENV)/.ready $(MODEL)/model.safetensors
	$(VENV)/bin/python recipes/translation_sft.py --config recipes/configs/icelandic-sft-smoke.yaml
	$(VENV)/bin/python recipes/translation_cpt.py --config recipes/configs/icelandic-cpt-smoke.yaml

# The wheel and the sdist, in dist/. Each is installed by itself into an environment with nothing else, and is tried.
dist: $(VENV)/.ready
	rm -rf dist build
	$(VENV)/bin/python -m build
	$(MAKE) build/wheel/.tried FILE="$$(echo dist/*.whl)"
	$(MAKE) build/sdist/.tried FILE="$$(echo dist/*.tar.gz)"

build/%/.tried: scripts/smoke.py
	$(PYTHON) -m venv build/$*
	build/$*/bin/python -m pip install --quiet --constraint constraints.txt torch
	build/$*/bin/python -m pip install --quiet --constraint constraints.txt $(FILE)
	build/$*/bin/neuronxa demo --help > build/$*/help.txt
	cd build/$* && bin/python ../../scripts/smoke.py .
	touch $@

# What pip does to other trainers' versions where the wheel of `make dist` is installed.
beside: $(VENV)/.ready
	$(VENV)/bin/python scripts/try_beside.py dist/*.whl

clean:
	rm -rf dist build site $(VENV) $(COMPAT) $(COMET) $(DEEPSPEED) $(TRACKERS) $(HARNESS) $(LLAMAFACTORY) $(AXOLOTL) \
		.models runs

# torch is asked for first and alone: where a CPU build is configured, pip then takes it.
$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,recipes,dev,docs]'
	touch $@

$(COMPAT)/.ready: constraints-compat.txt pyproject.toml
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --constraint constraints-compat.txt torch
	$(COMPAT)/bin/python -m pip install --quiet --constraint constraints-compat.txt --editable '.[train,comet,dev]'
	touch $@

# unbabel-comet cannot live beside transformers 5; in $(COMPAT) it does.
$(COMET)/neuronxa-comet-ready: neuronxa_callback/data/comet-requirements.txt | $(VENV)/.ready
	$(VENV)/bin/neuronxa comet setup --path $(COMET)
	touch $@

# In a folder of its own, which the tests of ZeRO alone use: accelerate imports DeepSpeed wherever it finds it.
$(DEEPSPEED)/.ready: constraints.txt | $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(DEEPSPEED) \
		deepspeed einops hjson msgpack
	touch $@

# In a folder of its own, which these tests alone use: two of them need older versions of what $(VENV) has.
$(TRACKERS)/.ready: constraints/trackers.txt constraints.txt | $(VENV)/.ready
	rm -rf $(TRACKERS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --target $(TRACKERS) \
		--requirement constraints/trackers.txt
	touch $@

$(HARNESS)/.ready: constraints/harness.txt | $(VENV)/.ready
	rm -rf $(HARNESS)
	$(VENV)/bin/python -m pip install --quiet --no-deps --target $(HARNESS) --requirement constraints/harness.txt
	touch $@

# constraints/llamafactory.txt says what is left out, and why torchaudio loses its compiled library.
$(LLAMAFACTORY)/.ready: constraints/llamafactory.txt pyproject.toml
	$(PYTHON) -m venv $(LLAMAFACTORY)
	$(LLAMAFACTORY)/bin/python -m pip install --quiet --constraint constraints/llamafactory.txt torch
	$(LLAMAFACTORY)/bin/python -m pip install --quiet --constraint constraints/llamafactory.txt --editable . \
		accelerate datasets einops fire hypothesis omegaconf peft pytest sentencepiece tensorboard tiktoken trl
	$(LLAMAFACTORY)/bin/python -m pip install --quiet --constraint constraints/llamafactory.txt --no-deps \
		llamafactory torchaudio
	rm -f $(LLAMAFACTORY)/lib/python3*/site-packages/torchaudio/lib/*.so
	touch $@

# constraints/axolotl.txt says what is left out.
$(AXOLOTL)/.ready: constraints/axolotl.txt pyproject.toml
	$(PYTHON) -m venv $(AXOLOTL)
	$(AXOLOTL)/bin/python -m pip install --quiet --constraint constraints/axolotl.txt torch
	$(AXOLOTL)/bin/python -m pip install --quiet --constraint constraints/axolotl.txt --editable . \
		accelerate addict art bitsandbytes colorama datasets einops evaluate fire hypothesis kernels numba peft posthog \
		pytest python-dotenv schedulefree sentencepiece tensorboard trl wandb zstandard
	$(AXOLOTL)/bin/python -m pip install --quiet --constraint constraints/axolotl.txt --no-deps \
		axolotl axolotl-contribs-lgpl axolotl-contribs-mit fastcore triton
	touch $@

$(MODEL)/model.safetensors: | $(VENV)/.ready
	$(VENV)/bin/python scripts/make_model.py $(MODEL)
