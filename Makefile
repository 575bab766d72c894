# Two commands do all the set-up: `make demo` and `make test`. `make proof` runs the slow evidence.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
export CMAKE := $(CURDIR)/$(VENV)/bin/cmake
export OPENBLAS_NUM_THREADS := 1
PREFIX ?= /usr/local
HALATION := target/release/halation

.PHONY: demo test proof build install setup python clean-demo

demo: build clean-demo
	$(HALATION) reconstruct vlbi data/demo/ring.uvfits -o demo-output --draws 20 --seed 0
	$(HALATION) assess demo-output --truth data/demo/ring.truth.fits
	@echo
	@echo "Pictures:  demo-output/summary.png   images: demo-output/mean.fits, std.fits   all draws: demo-output/posterior.h5"

# The demo owns its output folder, so that it can be run again.
clean-demo:
	rm -rf demo-output demo-output.partial

test: setup python
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	HALATION_PYTHON=$(CURDIR)/$(PYTHON) cargo test --workspace
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

proof: build python
	HALATION_PYTHON=$(CURDIR)/$(PYTHON) docs/proof/run.sh

build: setup
	cargo build --release -p halation

install: build
	install -D $(HALATION) $(DESTDIR)$(PREFIX)/bin/halation
	install -d $(DESTDIR)$(PREFIX)/share/halation/priors
	install -m 644 data/priors/* $(DESTDIR)$(PREFIX)/share/halation/priors/

# What a build needs beyond Rust, a C compiler, make and python3; installed where that is allowed, else named.
setup: $(VENV)/bin/cmake
	@tools/need-packages.sh

$(VENV)/bin/cmake:
	@tools/need-packages.sh
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check 'cmake>=3.26,<5'

# Readers that other people use, to open our files in tests.
python: $(VENV)/readers
$(VENV)/readers: tools/requirements.txt | $(VENV)/bin/cmake
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tools/requirements.txt
	touch $@
