# Two commands set everything up on a fresh Debian machine: `make run` and `make test`.
SHELL := /bin/bash -euo pipefail
SWIFT_FLAGS := -c release
PREFIX ?= /usr/local
DESTDIR ?=
# The installed program carries Swift's libraries, so it runs where there is no toolchain.
STATIC := --scratch-path .build/install -c release --static-swift-stdlib
VERSION = $(shell sed -n 's/.*espalierVersion = "\(.*\)".*/\1/p' Sources/espalier/*.swift)

.PHONY: run build test record sanitize bench format lint install uninstall deb check

run: build
	@exec .build/release/espalier explore

build: check
	@swift build $(SWIFT_FLAGS) --product espalier

test: check
	@swift test $(SWIFT_FLAGS)
	@bash Tests/TorchEngine/run

# Memory errors and data races in formats, tensors, threads, tape and operators: two debug builds. The
# test that damages every byte of whole files has one thread and would take most of an hour in the second.
sanitize: check
	@for kind in address thread; do \
	  skipped=$$([ $$kind = address ] || echo --skip damagedFixturesNeverCrash); \
	  swift test --sanitize=$$kind --scratch-path .build/$$kind --disable-xctest $$skipped \
	    --filter 'FilesTests|PicturesTests|CheckpointsTests|DatasetsTests|TensorCoreTests|AutogradTests|OperatorsTests'; \
	done

# Writes docs/keys.md and the explorer's stored screens anew where they differ; the tests that do so fail.
record: check
	-@ESPALIER_RECORD=1 swift test --filter 'SnapshotTests|KeyTableTests|ThemeTests'

bench: build
	@.build/release/espalier bench

format:
	@swift format -i -r -p Sources Tests Assets Package.swift

lint:
	@swift format lint --strict -r -p Sources Tests Assets Package.swift

# The program, its shipped model, manual pages and shell completions below PREFIX.
install: check
	@swift package --scratch-path .build/install --allow-writing-to-package-directory \
	  generate-manual --configuration release --multi-page >/dev/null
	@swift build $(STATIC) --product espalier
	@to="$(DESTDIR)$(PREFIX)"; built=.build/install/release; share="$$to/share"; \
	install -D -m 755 $$built/espalier "$$to/bin/espalier"; \
	rm -rf "$$share/espalier/demo"; install -d "$$share/espalier/demo" "$$share/man/man1"; \
	install -m 644 Assets/demo/*.safetensors Assets/demo/pretrain.json Assets/demo/README.md \
	  "$$share/espalier/demo"; \
	rm -rf "$$share/espalier/torch"; install -d "$$share/espalier/torch"; \
	cp -R Sources/TorchEngine/espalier_torch Sources/TorchEngine/pyproject.toml "$$share/espalier/torch"; \
	find "$$share/espalier/torch" -name __pycache__ -prune -exec rm -rf {} +; \
	for page in .build/install/plugins/GenerateManual/outputs/espalier/*.1; do \
	  name=$$(basename $$page .1); \
	  sed -E ':a; s/(espalier[a-z-]*)\.([a-z])/\1-\2/; ta' $$page | gzip -9n \
	    > "$$share/man/man1/$${name//./-}.1.gz"; \
	done; \
	install -d "$$share/bash-completion/completions" "$$share/zsh/site-functions" \
	  "$$share/fish/vendor_completions.d"; \
	complete() { $$built/espalier --generate-completion-script $$1 > "$$share/$$2"; }; \
	complete bash bash-completion/completions/espalier; \
	complete zsh zsh/site-functions/_espalier; \
	complete fish fish/vendor_completions.d/espalier.fish; \
	echo "espalier $(VERSION) is installed below $$to"

uninstall:
	@to="$(DESTDIR)$(PREFIX)"; rm -rf "$$to/bin/espalier" "$$to/share/espalier" \
	  "$$to"/share/man/man1/espalier{,-*}.1.gz "$$to/share/bash-completion/completions/espalier" \
	  "$$to/share/zsh/site-functions/_espalier" "$$to/share/fish/vendor_completions.d/espalier.fish"

# A Debian package for this release of Debian, in .build.
deb:
	@$(MAKE) --no-print-directory install PREFIX=/usr DESTDIR=.build/deb
	@cd .build/deb; rm -rf DEBIAN debian; mkdir -p DEBIAN debian usr/share/doc/espalier; \
	cp ../../LICENSE usr/share/doc/espalier/copyright; strip usr/bin/espalier; \
	printf 'Source: espalier\nPackage: espalier\nArchitecture: any\n' > debian/control; \
	depends=$$(dpkg-shlibdeps -O usr/bin/espalier 2>/dev/null | sed -n 's/^shlibs:Depends=//p'); \
	rm -r debian; \
	printf '%s\n' 'Package: espalier' 'Version: $(VERSION)' 'Section: science' 'Priority: optional' \
	  "Architecture: $$(dpkg --print-architecture)" "Depends: $$depends" \
	  "Installed-Size: $$(du -sk usr | cut -f1)" 'Maintainer: The Espalier authors <espalier@localhost>' \
	  'Description: terminal explorer for grafting diffusion transformers' \
	  ' Replaces operators of a pretrained DiT, distils and finetunes the graft, and shows losses and' \
	  ' images in the terminal.' > DEBIAN/control
	@dpkg-deb --root-owner-group --build .build/deb .build/espalier_$(VERSION)_$$(dpkg --print-architecture).deb

# Installs missing system packages where that needs no question, else says how.
check:
	@bash .ci/setup
