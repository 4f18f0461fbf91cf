# Two commands set everything up on a fresh Debian machine: `make run` and `make test`.
SHELL := /bin/bash
SWIFT_FLAGS := -c release

.PHONY: run build test bench format lint setup check

run: build
	@exec .build/release/espalier explore

build: check
	@swift build $(SWIFT_FLAGS) --product espalier

test: check
	@swift test $(SWIFT_FLAGS)

bench: build
	@.build/release/espalier bench

format:
	@swift format -i -r -p Sources Tests Assets Package.swift

lint:
	@swift format lint --strict -r -p Sources Tests Assets Package.swift

# Installs missing system packages where that needs no question, else says how.
check:
	@bash .ci/setup
