# Every target works from a fresh clone: the first one that runs makes .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

export SCARFORGE_HOME ?= workspace
export MLFLOW_DISABLE_TELEMETRY = true
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: install demo test test-ui test-cluster test-wheel faults fuzz check format ui audit clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install ## the whole graph on the built-in phantom, fold 0
	$(BIN)/scarforge run --source phantom --profile demo --fold 0

test: install ## every test but those that need a browser or a cluster
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 --durations 10

test-cluster: install ## a fold on a local Ray with PostgreSQL, kill and cancel, two-process DDP (apt-get install postgresql nginx openssl)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,cluster]"
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not ui" --durations 10 tests/cluster tests/deploy tests/engine/test_remote_s3.py \
		tests/engine/cluster/test_executor.py tests/segmentation/training/test_distributed.py

test-ui: install ## both web interfaces, driven in Debian's Chromium (apt-get install chromium)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ui tests/ui

test-wheel: install ## the wheel alone, in an environment and a folder of its own
	rm -rf build/wheel build/lib build/bdist.* # an older build would leave its modules in the wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv --without-pip build/wheel/env
	$(BIN)/pip install --quiet --no-deps --target "$$(build/wheel/env/bin/python -c 'import site; print(site.getsitepackages()[0])')" build/wheel/*.whl
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(build/wheel/env/bin/python -c 'import site; print(site.getsitepackages()[0])')/dependencies.pth"
	cd build/wheel && env/bin/python -P ../../tests/installed_alone.py
	cd build/wheel && env/bin/python -P -m pipeline.cli doctor

faults: install ## 300 failing calls and 60 kills over every stage of a fold, and their table in docs/faults.md (gcc; hours)
	$(BIN)/python -m tests.faults.sweep --docs docs/faults.md

fuzz: install ## 200,000 hostile inputs, or 20 minutes, for every reader, chosen by Atheris; what went wrong: build/fuzz
	$(BIN)/pip install --quiet --no-deps --target build/fuzz/atheris "atheris>=3"
	PYTHONPATH=build/fuzz/atheris $(BIN)/python -m tests.fuzz.run --all

check: install ## formatting, lints, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: install ## Dagster on http://127.0.0.1:3000 and MLflow on http://127.0.0.1:5000
	$(BIN)/scarforge ui

audit: install ## what is installed (build/audit/scarforge.cdx.json, CycloneDX), and what is known against it
	$(PYTHON) -m venv build/audit/tools
	build/audit/tools/bin/pip install --quiet --constraint constraints.txt cyclonedx-bom pip-audit
	build/audit/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-format JSON \
		--output-file build/audit/scarforge.cdx.json $(BIN)/python
	.ci/audit build/audit/tools/bin/pip-audit $(BIN)/python

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
