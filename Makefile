# What a newcomer needs: `make demo`, then `make test`. Both run as root on Debian 12 with Rust, and install what they miss.

CARGO ?= cargo
BINARIES := -p postern-server -p postern-daemon
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
CONTENDERS := $(TARGET)/contenders/bin
FUZZ := integration/fuzz
E2E := $(patsubst integration/lab/tests/%.rs,--test %,$(wildcard integration/lab/tests/*.rs))
FUZZ_SECONDS ?= 600

# One after the other, also with -j: what is tested has to be built, and built with what was installed.
.NOTPARALLEL:
.PHONY: all install demo bench contenders test without lint fuzz deny deps docs clean

all:
	$(CARGO) build --release $(BINARIES)

## Puts the two programs into PREFIX/bin.
install: all
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(TARGET)/release/postern-coordinator $(TARGET)/release/postern

## From a join token to a private resource by name, in network namespaces. KEEP=1 leaves it standing.
demo: deps
	$(CARGO) build --release $(BINARIES) -p postern-lab
	$(TARGET)/release/postern-demo $(if $(KEEP),--keep)

## Measures what is claimed to be quick: BENCH=policy, revocation, engine, connect, or all four; and, when asked for, BENCH=tunnel beside
## other tunnels, for half an hour. revocation, connect and tunnel need root. OPTIONS="--quick" and others go to the bench.
bench: deps $(if $(filter tunnel,$(BENCH)),contenders)
	$(CARGO) build --release $(BINARIES) -p postern-bench
	@set -e; for bench in $(or $(BENCH),policy revocation engine connect); do \
		echo "== $$bench"; $(TARGET)/release/postern-bench $$bench $(OPTIONS); done

## The other tunnels that are no Debian packages.
contenders: $(CONTENDERS)/boringtun-cli $(CONTENDERS)/gotatun

$(CONTENDERS)/boringtun-cli:
	$(CARGO) install --locked --root $(TARGET)/contenders boringtun-cli@0.7.1

$(CONTENDERS)/gotatun:
	$(CARGO) install --locked --root $(TARGET)/contenders gotatun-cli@0.10.2

## Everything that has to hold.
test: deps lint deny
	$(CARGO) build --workspace --all-targets
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory without TESTS="access resilience"
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=4

## The end-to-end tests with each of the kernel's offloads switched off; TESTS="access interop" for some of them.
without: deps
	@$(CARGO) build --workspace
	@set -e; for offload in tso uso gso gro; do echo "== without $$offload"; \
		POSTERN_WITHOUT=$$offload $(CARGO) test --workspace $(if $(TESTS),$(TESTS:%=--test %),$(E2E)); done

## Looks for what breaks on bytes from outside: each target for FUZZ_SECONDS, or TARGETS='dns token' alone.
fuzz: deps
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked --quiet cargo-fuzz
	@CARGO=$(CARGO) FUZZ_TARGET_DIR=$(abspath $(TARGET))/fuzz $(FUZZ)/run $(FUZZ_SECONDS) $(TARGETS)

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) fmt --manifest-path $(FUZZ)/Cargo.toml --check
	$(CARGO) clippy --manifest-path $(FUZZ)/Cargo.toml --target-dir $(TARGET)/fuzz --all-targets -- -D warnings

## Licences, bans, sources, and known vulnerabilities where their database can be reached.
deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --quiet cargo-deny
	cargo-deny --workspace check bans licenses sources
	cargo-deny --manifest-path $(FUZZ)/Cargo.toml --config deny.toml check bans licenses sources
	@if cargo-deny fetch db >/dev/null 2>&1; then cargo-deny --workspace check advisories; \
	else echo "deny: the advisory database can't be reached from here; known vulnerabilities were not checked"; fi

## The Debian packages that building, the demo, the tests and the benches use.
deps:
	@integration/lab/install-packages

docs:
	$(CARGO) doc --workspace --no-deps

clean:
	$(CARGO) clean
