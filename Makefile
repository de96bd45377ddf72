# Two commands from a fresh clone, `make demo` and `make test`. Each makes the environment it needs on its
# first call and reuses it, without network, on the next; an edit of pyproject.toml renews it.

# The first of these versions that can make an environment, on PATH or among pyenv's own: a shim of pyenv's runs only
# where its version has been chosen.
first_python = $(shell for version in $(1); do \
	for python in $$(IFS=:; for folder in $$PATH; do echo $$folder/python$$version; done) \
		$$(pyenv root 2>/dev/null)/versions/*/bin/python$$version; do \
		[ -x $$python ] && $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
			&& echo $$python && exit; done; done)

PYTHON ?= $(call first_python,3.11 3.12 3.13 3.14 3)
NEWEST_PYTHON ?= $(call first_python,3.14 3.13 3.12 3.11 3)
JOBS ?= auto
ARGS ?=

KERNEL_FLAGS = -std=c++17 -fno-math-errno -fno-trapping-math -w

INSTALL = -m pip install --quiet --no-input --disable-pip-version-check
# A worker takes whole files, in the order of tests/conftest.py: what a file compiles serves its next tests.
PYTEST = -m pytest -n $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 10 $(ARGS)

# First the tests whose programs may be compiled quickly, then the others.
both = $(1) $(PYTEST) --compiled quickly && $(1) $(PYTEST) --compiled fully

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup kernels demo demo-receptor demo-vowels demo-fashion demo-multi demo-online test test-oldest test-newest test-kernels test-sanitize test-shapes test-interop fuzz coverage package docs lint bench clean distclean

help: ## this list; the times are those of 2 cores, without the making of an environment
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: .venv/.stamp-examples .venv/.stamp-test .venv/.stamp-lint ## make the whole environment at once (minutes, from the network)

demo: .venv/.stamp-examples ## train a spiking network on real patch-clamp recordings (2 minutes)
	.venv/bin/python examples/patch_clamp.py $(ARGS)

demo-receptor: .venv/.stamp-examples ## predict the spikes of an auditory receptor from the sound (11 minutes)
	.venv/bin/python examples/receptor.py $(ARGS)

demo-vowels: .venv/.stamp-examples ## tell speakers apart by padded utterances, and fold the network (6 minutes, at first from the network)
	.venv/bin/python examples/vowels.py $(ARGS)

demo-fashion: .venv-interop/.stamp ## train a convolutional spiking network on images, here and in spikingjelly (5 minutes; needs the data)
	.venv-interop/bin/python examples/fashion.py $(ARGS)

demo-multi: .venv/.stamp-examples ## train one network on several processes (1 minute)
	.venv/bin/python examples/multi_process.py $(ARGS)

demo-online: .venv/.stamp-examples ## train a network with each norm by an online rule and through time (5 minutes)
	.venv/bin/python examples/online_training.py $(ARGS)

test: .venv/.stamp-test kernels ## run the tests, warnings as errors (8 minutes, less the next time; JOBS=2, ARGS='-k mask')
	$(call both,.venv/bin/python)

test-oldest: .venv-oldest/.stamp kernels ## run the tests with the lower bounds of pyproject.toml (8 minutes)
	$(call both,.venv-oldest/bin/python)

test-newest: ## run the tests with the newest Python and releases (12 minutes, from the network)
	@test -n "$(NEWEST_PYTHON)" || { echo "braindnorm needs Python 3.11 or newer; set NEWEST_PYTHON=/path/to/python"; exit 1; }
	@echo "Making .venv-newest with $(NEWEST_PYTHON)"
	$(NEWEST_PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python $(INSTALL) --upgrade --upgrade-strategy eager -e '.[test]' </dev/null
	$(call both,.venv-newest/bin/python)

kernels: .venv/.stamp ## compile the kernels of these sources, where there is a compiler, as an installation does (up to a minute)
	@.venv/bin/python braindnorm/cpu_kernels/_build.py

test-kernels: .venv/.stamp-test kernels ## run the tests with kernels for arrays of any size (12 minutes; needs g++ or clang++)
	.venv/bin/python $(PYTEST) --kernels --ignore=tests/cpu_kernels \
		--ignore=tests/documents/test_documents.py

# With the registers of this machine, and with those that every x86-64 or ARM processor has. Without random addresses,
# which the thread sanitizer does not bear everywhere. Results that are aligned are written past the cache, whatever
# their size.
test-sanitize: ## run the kernels under the sanitizers for addresses, undefined behaviour and threads (20 minutes or more; needs g++)
	@mkdir -p build/sanitize
	@for build in "address,undefined -march=native" "address,undefined" "thread -march=native"; do \
		echo "-fsanitize=$$build"; \
		$(CXX) $(KERNEL_FLAGS) -O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all -fsanitize=$$build \
			-DBRAINDNORM_FAR=0 -I braindnorm/cpu_kernels/include \
			braindnorm/cpu_kernels/norm.cpp tests/cpu_kernels/sanitize/driver.cpp -o build/sanitize/driver -pthread && \
		$$(command -v setarch >/dev/null && echo setarch -R) build/sanitize/driver || exit 1; done

# Sizes that are symbols cannot be compared with numbers.
test-shapes: .venv/.stamp-test ## check the types and shapes of the arithmetic's arrays at every call (15 minutes)
	.venv/bin/python $(PYTEST) --shapes -k 'not symbolic' tests/numerics tests/functional tests/layers

test-interop: .venv-interop/.stamp ## compare with torch, flax, equinox, keras, brainpy and spikingjelly; run the converters (minutes)
	.venv-interop/bin/python $(PYTEST) tests/conformance tests/interop/frameworks \
		--cov=braindnorm/interop --cov-branch --cov-config=/dev/null

fuzz: .venv/.stamp-test ## make 10 000 random calls, valid and not: right, or refused (minutes; ARGS='--calls 500')
	.venv/bin/python -m tests.support.fuzz $(ARGS)

coverage: .venv/.stamp-test kernels ## run the tests and say which branches they take: 98% of them at least (15 minutes)
	.venv/bin/python $(PYTEST) --cov --cov-report=term-missing:skip-covered

package: .venv/.stamp-package ## build sdist and wheels, and install and use each (minutes; ARGS='--keep dist')
	.venv/bin/python -m tests.support.packaging $(ARGS)

docs: .venv/.stamp-docs ## build the site, build/docs/index.html; its code is run, warnings are errors (minutes)
	.venv/bin/python -m sphinx -b html -W --keep-going -d build/doctrees docs build/docs

lint: .venv/.stamp-lint ## ruff, mypy and the import contracts (half a minute)
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.stamp-bench ## time the norms beside brainstate, flax, equinox and torch (5 minutes; ARGS=--quick)
	.venv/bin/python -m benchmarks $(ARGS)

clean: ## remove caches and builds
	rm -rf build dist braindnorm/cpu_kernels/lib docs/api .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find braindnorm tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environments as well
	rm -rf .venv .venv-oldest .venv-newest .venv-interop

.venv/.stamp:
	@test -n "$(PYTHON)" || { echo "braindnorm needs Python 3.11 or newer; set PYTHON=/path/to/python"; exit 1; }
	@echo "Making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.stamp-%: pyproject.toml | .venv/.stamp
	@echo "Installing braindnorm[$*] into .venv (half a minute or so)"
	@.venv/bin/python $(INSTALL) -e '.[$*]' </dev/null
	@touch $@

# The constraints are read from pyproject.toml, so that what is promised there is what is tested.
.venv-oldest/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*(bound.replace(">=", "==") for bound in project["dependencies"]), sep="\n")' \
		> .venv-oldest/lower-bounds.txt
	.venv-oldest/bin/python $(INSTALL) -c .venv-oldest/lower-bounds.txt -e '.[test]' </dev/null
	@touch $@

# An environment of its own, so that `make test` shows that nothing here needs these packages. spikingjelly comes without
# what it requires: its norms need no torchvision and no torchaudio, which have to fit torch, and are not on every index.
.venv-interop/.stamp: pyproject.toml
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/python $(INSTALL) -e '.[conformance,test]' </dev/null
	.venv-interop/bin/python $(INSTALL) --no-deps 'spikingjelly==2.0.0' </dev/null
	@touch $@
