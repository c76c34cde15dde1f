# make demo   a question-answering pipeline over the Python documentation, from nothing to answers
# make test   the environment, the checks and the tests
# make bench  the engine against plain Python;  make bench-retrieval  search quality and speed;  make bench-queues  the
#             queues against their peers;  make bench-network  the network laboratory itself
# make test-ray   every test of the engine on a cluster of two nodes (20 minutes);  make bench-ray  what a cluster brings
# make check-image   the steps of deploy/Dockerfile, done in an empty folder;  make check-deploy SCHEMAS=FOLDER   the lab's
#             manifests against the schemas of Compose and KubeRay (tests/deploy/manifests.py says which files)
# Everything is installed below .venv (PYTHON=python3.12 make test picks another interpreter), but for the embedding
# model (35 MB), which goes to SAGE's data folder: ~/.local/share/sage, or SAGE_DATA_DIR. make clean removes .venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Tests start hundreds of processes, and each would compile all of SAGE where this forbids to keep what was compiled.
export PYTHONDONTWRITEBYTECODE :=
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The tests run real processes, sockets and clusters against time limits. What failed on a busy machine is tried once more,
# alone; the log names it, and it counts if it fails again. A crash, or tests that cannot be collected, count at once.
# Three at once, because half of the time a test waits: on two processors that takes up to a quarter less than two at once.
PYTEST := $(BIN)/python -m pytest -o cache_dir=$(VENV)/.failed
AGAIN  := $(PYTEST) --last-failed --last-failed-no-failures=none --verbose

.PHONY: demo test check faults bench bench-retrieval bench-queues bench-network test-ray bench-ray check-image check-deploy lock clean

demo: $(VENV)/.run $(VENV)/.model
	$(BIN)/sage run examples/demo.py

test: $(VENV)/.dev $(VENV)/.model check
	rm -rf $(VENV)/.failed
	$(PYTEST) -n 3 --dist loadgroup || { [ $$? -eq 1 ] && $(AGAIN); }

check: $(VENV)/.dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/engine.py

bench-retrieval: $(VENV)/.dev $(VENV)/.model
	$(BIN)/python benchmarks/retrieval.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SAGE needs Python 3.11 or newer: PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv $(VENV)

# The lock files name every package with its hashes; SAGE itself is installed in place.
$(VENV)/.run: $(BIN)/python requirements/run.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements/run.lock
	$(PIP) install --no-deps -e .
	touch $@

$(VENV)/.dev: $(BIN)/python requirements/dev.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements/dev.lock
	$(PIP) install --no-deps -e .
	touch $@ $(VENV)/.run

$(VENV)/.model: | $(VENV)/.run
	$(BIN)/sage rag model install
	touch $@

bench-queues: $(VENV)/.dev
	$(BIN)/python -m benchmarks.queues

bench-network: $(VENV)/.dev
	$(BIN)/python benchmarks/network.py

test-ray: $(VENV)/.dev
	$(BIN)/python -m pytest --ray all -k "ray or again" tests/engine tests/bench

bench-ray: $(VENV)/.dev
	$(BIN)/python benchmarks/ray_engine.py

# The fault matrix in full: jobs killed hundreds of times, at every point at which something becomes safe, 2,000 damages,
# clusters whose machines and networks fail. Progress row by row, and a summary.
faults: $(VENV)/.dev
	$(BIN)/python tests/faults/matrix.py

check-image: $(VENV)/.dev
	$(BIN)/python tests/deploy/image_steps.py

check-deploy: $(VENV)/.dev
	$(BIN)/python tests/deploy/manifests.py $(SCHEMAS)

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-annotate --no-emit-index-url --no-header --extra rag --extra llm -o requirements/run.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-annotate --no-emit-index-url --no-header --extra dev -o requirements/dev.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --quiet --no-annotate --no-emit-index-url --no-header --extra ray --extra gateway --extra bench -o requirements/lab.lock pyproject.toml

clean:
	rm -rf $(VENV) demo-output
