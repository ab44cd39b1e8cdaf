# `make` lists what there is. The recipes that are more than a line are scripts of their own in tests/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

target_dir := $(or $(CARGO_TARGET_DIR),target)
# Static, so that the same binary is the command line and the only file of the container image.
musl := $(shell uname -m)-unknown-linux-musl
binary := $(target_dir)/$(musl)/release/hawser
# Says what a stage is, and how long it took.
stage := tests/stage
scripts := .ci/run .cargo/musl-ld benches/flames benches/proxy-functions tests/deps tests/dist tests/fuzz tests/stage $(wildcard tests/cluster/run tests/demo/run install.sh) \
	tests/kubernetes/build tests/kubernetes/cluster tests/kubernetes/smoke

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.* ## /  make \1\t/' | expand -t 24

# What the demo needs of Debian: the tests need more, and a cluster that is there already less.
demo_needs := cc musl-gcc $(if $(filter current,$(DEMO_CLUSTER)),,containerd ctr runc iptables nsenter tcpdump /usr/lib/cni/bridge)

.PHONY: demo
demo: ## watch plaintext turn into mutual TLS, on a real Kubernetes on this machine (or DEMO_CLUSTER=current)
	@tests/deps $(demo_needs)
	@$(stage) "build the release binary" $(MAKE) --no-print-directory build
	@HAWSER=$(abspath $(binary)) tests/demo/run up

.PHONY: demo-down
demo-down: ## remove all that `make demo` made
	@HAWSER=$(abspath $(binary)) tests/demo/run down

.PHONY: build
build: musl-tools ## build the release binary: one static file
	cargo build --release --locked --target $(musl)
	@ls -sh $(binary)

.PHONY: check
check: ## formatting, lints, unit and process tests: about a minute when little has changed
	@$(stage) "formatting" cargo fmt --check
	@$(stage) "lints" cargo clippy --locked --all-targets --quiet -- -D warnings
	@$(stage) "lints of shell scripts" $(MAKE) --no-print-directory shellcheck
	@$(stage) "unit and process tests" cargo test --locked

.PHONY: test
test: ## everything: `check`, HTTP/2 conformance, the release binary, and the cluster tests
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory test-h2spec
	@$(MAKE) --no-print-directory test-cluster

.PHONY: test-h2spec
test-h2spec: ## the conformance suite of HTTP/2 against the proxy; needs Go, which builds it
	@PATH="$$PATH:/usr/local/go/bin" $(stage) "build h2spec" go build -C tests/h2spec -o $(abspath $(target_dir))/h2spec github.com/summerwind/h2spec/cmd/h2spec
	@$(stage) "HTTP/2 conformance" env H2SPEC=$(abspath $(target_dir))/h2spec cargo test --locked --test hawser -- --ignored h2spec

.PHONY: fuzz
fuzz: ## bytes from strangers into all that reads them, FUZZ_SECONDS (60) for each target (TARGET=name runs one); needs cargo-fuzz and a nightly toolchain
	@tests/fuzz $(TARGET)

.PHONY: test-cluster
test-cluster: ## the proofs: an installed mesh on a real Kubernetes (TEST=name runs some, KEEP=1 leaves the cluster)
	@$(stage) "build the release binary" $(MAKE) --no-print-directory build
	@$(stage) "build the cluster tool" tests/kubernetes/cluster --where
	@$(stage) "compile the tests" cargo test --locked --test hawser --no-run
	@$(stage) "cluster tests" env HAWSER=$(abspath $(binary)) tests/cluster/run $(TEST)

.PHONY: bench-mesh
bench-mesh: build ## what a pair of proxies costs per request, beside nothing between the same apps (needs root; ARGS="--help" lists options)
	ulimit -n 65536 && HAWSER=$(abspath $(binary)) cargo bench --locked --bench mesh -- $(ARGS) # files: for --idle 10000

.PHONY: bench-issuance
bench-issuance: ## what a certificate costs the identity role, part by part, beside a bare signature (ARGS="--help" lists options)
	cargo bench --locked --bench issuance -- $(ARGS)

.PHONY: proxy-functions
proxy-functions: ## list anew the functions that a proxy runs, for the linker to put side by side: when dependencies have changed much (needs root and valgrind)
	benches/proxy-functions

.PHONY: flames
flames: ## draw where the CPU goes in two proxies under each kind of load, to docs/flames/ (needs root, perf and inferno)
	benches/flames

.PHONY: ci
ci: ## what continuous integration runs
	@.ci/run

.PHONY: deps
deps: ## install the Debian packages that building and testing need, or say the line that does
	@tests/deps

.PHONY: golden
golden: ## rewrite the golden files of the tests; review the diff as code
	UPDATE_GOLDEN=1 cargo test --locked --quiet
	git status --short tests/golden completions docs

.PHONY: deny
deny: ## licences and sources of all dependencies; one TLS stack, one crypto provider
	@command -v cargo-deny >/dev/null || { echo "error: cargo-deny is missing; install it with: cargo install --locked cargo-deny"; exit 1; }
	cargo deny --locked check bans licenses sources

.PHONY: completions
completions: ## write completions/ anew, from clap's description of the flags
	@mkdir -p completions
	cargo run --quiet --locked -- completion bash > completions/hawser.bash
	cargo run --quiet --locked -- completion zsh > completions/_hawser
	cargo run --quiet --locked -- completion fish > completions/hawser.fish

.PHONY: docs
docs: ## write docs/cli.md anew, likewise
	@mkdir -p docs
	cargo run --quiet --locked -- docs > docs/cli.md

.PHONY: dist
dist: build ## the files of a release, as install.sh wants them: an archive and its checksum
	@tests/dist $(binary) $(target_dir)/dist

.PHONY: shellcheck
shellcheck: ## lint the shell scripts
	@command -v shellcheck >/dev/null || { echo "error: shellcheck is missing; \`make deps\` installs it"; exit 1; }
	shellcheck $(scripts)

.PHONY: musl-tools
musl-tools:
	@tests/deps musl-gcc
	@! command -v rustup >/dev/null || rustup target list --installed | grep -qx $(musl) || rustup target add $(musl)
