# make quickstart   set up .venv, run the bundled model on the bundled benchmark: the paper's Table 3 in small
# make leaderboard  the same with all fifteen arms
# make claims      what three papers claim, held against the bundled model
# make map          every trace of the bundled model on the bundled benchmark, and the page of it; JOBS processes
# make smoke        a few tests of every room, under a minute
# make test         the quick tests;  make test-host: the slow ones, through the real lmms-eval command line
# make coverage     the quick tests, and which lines they reach; fails below the floor in pyproject.toml
# make soak         kills a leaderboard 20 times at random moments; it must end as an undisturbed one
# make disturbed    arms and traces stopped, robbed of ranks and videos, for half an hour; the same must come out
# make lint         ruff and mypy
# make site         the docs as a site in out/site; a warning is an error
# make fuzz         a million hostile inputs;  make properties: ten thousand random layouts and flows
# make mutate       how many seeded bugs the tests notice;  make faults: random flows with injected faults
# make wheel        builds what is released, and runs it alone in an empty environment
# make lock         resolves setup.cfg anew into requirements.lock
# make test-gpu     the engine's tests with the models on a GPU (CUDA)
# make test-oldest, make test-newest   the quick tests with the oldest versions that are promised, with today's newest
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/quickstart
KILLS ?= 20
JOBS ?= 2
ARM = flowbench_flow_
ARMS ?= flowbench $(ARM)effective $(ARM)effective_closed $(ARM)random_1 $(ARM)mirrored $(ARM)cross_frame_first_half $(ARM)blind
COMMA := ,
TASKS = $(subst $(eval) ,$(COMMA),$(strip $(ARMS)))
BIN = $(VENV)/bin
# The environment is ours: without what Python has compiled, each process would read 4,000 sources anew (20 s).
unexport PYTHONDONTWRITEBYTECODE
UV = VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv
# Tiny tensors: threads that wait for one another cost more time than they save.
TEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.PHONY: quickstart leaderboard map claims smoke test coverage test-gpu test-host soak disturbed lint site fuzz mutate faults wheel properties format clean lock lock-platforms test-oldest test-newest

quickstart: $(VENV)/.installed
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false \
	  $(BIN)/lmms-flow eval --model llava_vid_flow --model_args "pretrained=flow-tiny,records=$(OUT)/records" \
	  --tasks $(TASKS) --log_samples --output_path $(OUT)/results --verbosity WARNING
	@$(BIN)/lmms-flow compare $(OUT)/results --output $(OUT)/report.html --figure $(OUT)/comparison.png

leaderboard: ARMS = flowbench_flow_leaderboard
leaderboard: OUT = out/leaderboard
leaderboard: quickstart

# One process a core: the questions are shared out among them, and a run that was killed goes on where it was.
SHARED = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false ACCELERATE_USE_CPU=true \
	  $(BIN)/torchrun --nproc_per_node $(JOBS) -m lmms_flow.cli eval --model llava_vid_flow \
	  --model_args "pretrained=flow-tiny,records=$(OUT)/records" \
	  --log_samples --output_path $(OUT)/results --verbosity WARNING --tasks

map: OUT = out/map
map: $(VENV)/.installed
	@$(SHARED) flowbench_flow_trace
	@$(BIN)/lmms-flow report $(OUT)/results --output $(OUT)/report.html

claims: OUT = out/claims
claims: $(VENV)/.installed
	@$(SHARED) flowbench_flow_claims
	@$(BIN)/lmms-flow claims $(OUT)/results

# Only the files that have such tests are imported.
smoke: $(VENV)/.installed
	$(TEST) -m smoke $(PYTEST_ARGS) $(shell grep -l "mark.smoke" tests/test_*.py)

test: $(VENV)/.installed
	$(TEST) -n $(JOBS) --dist loadfile -m "not host" $(PYTEST_ARGS)

coverage: $(VENV)/.installed
	@mkdir -p out/coverage
	$(MAKE) test PYTEST_ARGS="--cov --cov-report=term $(PYTEST_ARGS)"

test-gpu: $(VENV)/.installed
	LMMS_FLOW_TEST_DEVICE=cuda $(TEST) -n $(JOBS) $(addprefix tests/test_,gpu.py engine.py sparse.py sweep.py baseline.py strips.py flex.py recorder.py readouts.py after_softmax.py gates.py) $(PYTEST_ARGS)

test-host: $(VENV)/.installed
	$(TEST) -n $(JOBS) --dist loadfile -m host $(PYTEST_ARGS)

soak: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.soak --kills $(KILLS)

disturbed: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.disturbed

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir out/site

fuzz mutate faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.$@

wheel: $(VENV)/.installed
	$(BIN)/python -m scripts.wheel --run

properties: $(VENV)/.installed
	$(TEST) tests/test_properties.py --hypothesis-profile=long --timeout=0

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Exactly the versions of the lock; uv, which is in it, installs the rest.
$(VENV)/.installed: requirements.lock setup.cfg
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lmms-flow needs Python 3.11 or later; PYTHON=python3.11 make ... names one")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.lock)
	@echo "installing by requirements.lock: 6.6 GB on disk, torch is most of it"
	$(UV) pip sync --require-hashes requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What is promised of versions, and trying it (docs/versions.md).
lock: $(VENV)/.installed
	$(BIN)/python -m scripts.versions lock

lock-platforms: $(VENV)/.installed
	$(BIN)/python -m scripts.versions platforms

test-oldest test-newest: $(VENV)/.installed
	$(BIN)/python -m scripts.versions $(@:test-%=%) $(TIER_ARGS)

clean:
	rm -rf out build *.egg-info .mypy_cache .ruff_cache .pytest_cache
