# make demo: measure a built-in model on a built-in text.  make test: all tests.  make check: style and types.
# make bench: the benchmark tables of docs/benchmarks.md.  make results: every study at its laptop scale, kept in results/.
# make gallery: pages of what results/ holds, in site/.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check bench results gallery clean

demo: $(READY)
	$(BIN)/assay measure builtin:attention --out assay-demo --force

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

results: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/assay study run --all --scale laptop --out results

gallery: $(READY)
	$(BIN)/assay study report --results results --out site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "assay needs Python 3.11 or newer; try: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv assay-demo assay-report assay-gallery site
