# make, make train, make test: each makes what it needs, from a bare clone.
# PYTHON is what the virtual environment is made with; VENV where it is. KERNEL, SHAPE and ISA are
# the ladder's: its kernel, the one shape to measure, "M N K" for a product, and instruction sets, of
# which the first that the CPU has is taken. DEBUG is what `make debug` adds to the flags.
PYTHON ?= python3
VENV ?= .venv
ISA ?= avx512 avx2 any
DEBUG ?= -g -fno-omit-frame-pointer
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TYPES := $(VENV)-types

build: $(STAMP)  ## build the C library in place (the default)
	@$(PY) setup.py -q build_ext --inplace

train: build  ## train on the Python language reference, then write some text
	@$(PY) -m pygpt train

test: build $(VENV)/.installed-test  ## run every test
	@$(PY) tests/halves.py

test-long: build $(VENV)/.installed-test  ## try 500 files, models or calls where `test` tries 25
	@$(PY) -m pytest --hypothesis-profile=long tests/test_bad_calls.py tests/test_edits.py \
		tests/test_model_files.py tests/test_read_back.py tests/test_tape.py
	@PYGPT_TEST_INSTANTS=1 $(PY) -m pytest tests/test_killed_runs.py

test-install: build $(VENV)/.installed-test  ## build with each compiler, install the wheel: minutes
	@$(PY) -m pytest tests/install/test_install.py tests/install/test_wheel.py

test-mpi: build $(VENV)/.installed-mpi  ## test training on several ranks; installs mpi4py and MPI
	@timeout 300 tests/install/mpi.sh || true
	@$(PY) -m pytest -rs tests/test_ranks.py tests/test_networks.py

test-browser: build $(VENV)/.installed-test  ## test the pages in Chromium, which apt-get installs
	@tests/install/chromium.sh
	@$(PY) -m pytest -rs $$(grep -l "import browser\|from browser" tests/test_*.py)

types: build $(VENV)/.installed-test $(TYPES)/.installed  ## check the types with mypy and pyright
	@PATH=$(abspath $(TYPES))/bin:$$PATH $(PY) -m pytest -rs tests/test_types.py

bench: build  ## how fast each kernel is, beside what the machine can do
	@$(PY) -m pygpt bench

# For each ladder, the files of csrc that it needs besides its own.
LADDERS := matmul attention attention_backward softmax layernorm bpe
LADDER_matmul := ladder/amx ladder/amx_in_c matmul few_rows random runtime units
LADDER_attention := attention dropout random runtime
LADDER_attention_backward := $(LADDER_attention)
LADDER_softmax := softmax runtime
LADDER_layernorm := layernorm runtime
LADDER_bpe := bpe_encode bpe_train bpe_split runtime
LADDER := $(or $(KERNEL),matmul)
LADDER_FLAGS ?= -O3
# An assembler may be too old to know this; then AMX is left out.
AMX_ASSEMBLY := void f(void) { __asm__(\"tdpbf16ps %tmm2, %tmm1, %tmm0\"); }

ladder:  ## climb from a formula to its kernel, measured: KERNEL=attention
	@case " $(LADDERS) " in *" $(LADDER) "*) ;; *) \
		echo "ladder: there is none for KERNEL=$(LADDER); choose one of: $(LADDERS)" >&2; \
		exit 2;; esac
	@mkdir -p build
	@$(CC) csrc/ladder/choose.c -o build/choose
	@isa=$$(build/choose $(ISA)) && units=$$(echo "$(AMX_ASSEMBLY)" | \
		$(CC) -x c - -c -o build/probe.o 2>/dev/null || echo -DPYGPT_NO_UNITS) && \
	$(CC) $(LADDER_FLAGS) -std=c11 -D_GNU_SOURCE -ffp-contract=fast -Wall -Wno-psabi \
		-Wno-unknown-pragmas -Wno-unused-variable $$units -DISA_$$isa -Icsrc \
		csrc/ladder/$(LADDER).c csrc/ladder/measure.c $(LADDER_$(LADDER):%=csrc/%.c) \
		-o build/ladder -lm && build/ladder $(SHAPE)

compare: build  ## training steps beside PyTorch's (install torch in the environment first)
	@$(PY) tests/bench/compare.py

compare-matmul: build  ## each matrix product of a step beside PyTorch's
	@$(PY) tests/bench/matmul.py

compare-generation: build  ## generating text beside llama.cpp (says how to get it)
	@$(PY) tests/bench/generation.py

hover: build  ## how soon the largest page of `pygpt explain` answers, in Chromium
	@$(PY) tests/bench/hover.py

schedule: build  ## how a step is shared out among 1 to 128 threads: a model, no measurement
	@$(PY) tests/bench/schedule.py

growth: build  ## how a step's cost grows with its sizes, and what awkward ones cost
	@$(PY) -m pygpt bench --growth

info: build  ## what was built and what this machine has
	@$(PY) -m pygpt info

compilers: $(VENV)/.installed-test  ## build and test with each compiler here: minutes for each
	@$(PY) -m pytest -rP -q tests/install/test_compilers.py

debug: $(STAMP)  ## build with symbols for gdb and perf; DEBUG="-g -Og" is easier to step through
	@PYGPT_CFLAGS="$(DEBUG) $$PYGPT_CFLAGS" $(PY) setup.py -q build_ext --inplace

asm: build  ## print the assembly of a kernel: make asm KERNEL=gelu, and SET=baseline for another set
	@$(PY) csrc/assembly.py $(KERNEL) $(SET)

clean:  ## remove what was built; the virtual environment and out/ stay
	rm -rf build dist *.egg-info pygpt/*.so pygpt/_kernels.c

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 28

$(STAMP):
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check "cffi>=1.15" "setuptools>=77"
	@touch $@

$(VENV)/.installed-test: $(STAMP)
	@$(PY) -m pip install -q --disable-pip-version-check pytest hypothesis
	@touch $@

$(VENV)/.installed-mpi: $(VENV)/.installed-test
	@$(PY) -m pip install -q --disable-pip-version-check "mpi4py>=4"
	@touch $@

$(TYPES)/.installed:
	@$(PYTHON) -m venv $(TYPES)
	@$(TYPES)/bin/python -m pip install -q --disable-pip-version-check "mypy>=2,<3" pyright
	@touch $@

.PHONY: build train test test-browser test-long test-install types info clean help bench growth ladder compare \
	compare-matmul compare-generation hover schedule compilers debug asm

wheel: $(STAMP)  ## build a wheel for every CPython from 3.10 on, with its OpenMP, into dist/
	@$(PY) tests/install/wheel.py

test-pythons: build  ## run the short part of the tests on each CPython that is found
	@$(PY) tests/install/pythons.py

test-aarch64: $(STAMP)  ## the kernel tests on AArch64, cross-compiled, under qemu: an hour or two
	@$(PY) tests/install/aarch64.py

lint: build/lint/.installed  ## check the layout of the sources with ruff and clang-format
	@$(PY) tests/install/lint.py build/lint/bin

build/lint/.installed: $(STAMP)
	@$(PY) -m venv build/lint
	@build/lint/bin/python -m pip install -q --disable-pip-version-check \
		"ruff>=0.17,<0.18" "clang-format>=23,<24"
	@touch $@

.PHONY: wheel test-pythons test-aarch64 lint

# Checkers (docs/checks.md): each prints what it found, and fails if that is anything of ours.
SECONDS ?= 60
FUZZ_VENV ?= build/fuzz-venv

fuzz: build  ## fuzz each parser of outside bytes for SECONDS=60 (atheris; clang for the C)
	@test -x $(FUZZ_VENV)/bin/python || $(PYTHON) -m venv $(FUZZ_VENV)
	@$(FUZZ_VENV)/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: \
		atheris "cffi>=1.15"
	@$(FUZZ_VENV)/bin/python tests/checks/fuzz.py $(SECONDS)

asan: $(VENV)/.installed-test  ## the tests of C with address, undefined and leak checks
	@$(PY) tests/checks/asan.py

tsan: $(VENV)/.installed-test  ## the kernels on several threads with race checks (clang, Archer)
	@$(PY) tests/checks/tsan.py

valgrind: build $(VENV)/.installed-test  ## every kernel under valgrind's memcheck
	@$(PY) tests/checks/valgrind.py

analyze: build  ## GCC's -fanalyzer and clang-tidy's bug checks
	@$(PY) tests/checks/analyze.py

COVERAGE_VENV ?= build/coverage-venv

coverage: $(COVERAGE_VENV)/.installed  ## which lines and branches of C and Python no test runs
	@$(COVERAGE_VENV)/bin/python tests/checks/coverage.py

$(COVERAGE_VENV)/.installed:
	@$(PYTHON) -m venv $(COVERAGE_VENV)
	@$(COVERAGE_VENV)/bin/python -m pip install -q --disable-pip-version-check "cffi>=1.15" \
		"setuptools>=77" pytest hypothesis "coverage>=7.10,<8"
	@touch $@

faults: build $(VENV)/.installed-test  ## let each call of the system fail in turn: half an hour
	@$(PY) tests/checks/faults.py

mutants: build $(VENV)/.installed-test  ## break the code in some hundred ways; ONLY=pattern for some
	@$(PY) tests/checks/mutants.py "$(ONLY)"

exercises: build $(VENV)/.installed-test  ## do what docs/exercises/ says; ONLY=pattern for some
	@$(PY) tests/checks/exercises.py "$(ONLY)"

KILLS ?= 500
MINUTES ?= 60

kill-ranks: build $(VENV)/.installed-mpi  ## kill each of three ranks 20 times; the run goes on
	@PYGPT_TEST_RANK_KILLS=20 $(PY) -m pytest tests/test_ranks.py -k killed_rank

kill-drill: build  ## kill KILLS=500 processes while they write: what they leave must be whole
	@$(PY) tests/checks/kill_drill.py $(KILLS)

soak: build  ## train, evaluate, save and sample for MINUTES=60; nothing may grow
	@$(PY) tests/checks/soak.py $(MINUTES)

.PHONY: test-mpi kill-ranks fuzz asan tsan valgrind analyze coverage faults mutants exercises kill-drill soak
