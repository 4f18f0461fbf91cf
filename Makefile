# Two commands set everything up on a fresh Debian machine: `make run` and `make test`.
SHELL := /bin/bash
SWIFT_FLAGS := -c release

.PHONY: run build test record sanitize bench format lint setup check

run: build
	@exec .build/release/espalier explore

build: check
	@swift build $(SWIFT_FLAGS) --product espalier

test: check
	@swift test $(SWIFT_FLAGS)

# Memory errors and data races in formats, tensors, threads, tape and operators: two debug builds. The
# test that damages every byte of whole files has one thread and would take most of an hour in the second.
sanitize: check
	@for kind in address thread; do \
	  skipped=$$([ $$kind = address ] || echo --skip damagedFixturesNeverCrash); \
	  swift test --sanitize=$$kind --scratch-path .build/$$kind --disable-xctest $$skipped \
	    --filter 'FilesTests|PicturesTests|CheckpointsTests|DatasetsTests|TensorCoreTests|AutogradTests|OperatorsTests' || exit 1; \
	done

# Writes docs/keys.md and the explorer's stored screens anew where they differ; the tests that do so fail.
record: check
	-@ESPALIER_RECORD=1 swift test --filter 'SnapshotTests|KeyTableTests'

bench: build
	@.build/release/espalier bench

format:
	@swift format -i -r -p Sources Tests Assets Package.swift

lint:
	@swift format lint --strict -r -p Sources Tests Assets Package.swift

# Installs missing system packages where that needs no question, else says how.
check:
	@bash .ci/setup
