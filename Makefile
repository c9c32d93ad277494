# All that is done with this repository. "make help" lists it.

GO ?= go
VERSION ?= v0.1.0-dev+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
IMAGE ?= leat:$(subst +,-,$(VERSION))
# What the compiler is told of where time goes: "make profile". Tests are built without it.
PGO ?= hack/default.pgo
LDFLAGS := -X k8s.io/component-base/version.gitVersion=$(VERSION)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -pgo='$(PGO)' -ldflags '-s -w $(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: image
image: ## Build the image of all programs, IMAGE (leat:VERSION by default)
	docker build --build-arg VERSION='$(VERSION)' --tag '$(IMAGE)' .

.PHONY: run
run: ## Boot everything on this machine, and at the first time run a sample. UP holds flags of "leat up"
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/leat
	bin/leat up --sample $(UP)

.PHONY: kubectl
kubectl: ## Build kubectl into bin/host, for a machine that has none
	hack/host/build.sh bin/host kubectl

.PHONY: host
host: ## Build etcd, Kubernetes and helm into bin/host, for tests
	hack/host/build.sh bin/host

.PHONY: test-programs
test-programs: ## Build the programs into bin/test as tests run them: with the race detector
	$(GO) build -race -ldflags '$(LDFLAGS)' -o bin/test/ ./cmd/...

# How long "make test" runs chaos and soak: less than "make chaos" and "make soak", which do nothing else.
TEST_DURATION ?= 1m
# A program that is built with the race detector waits a second before it exits unless it is told not to.
export GORACE ?= atexit_sleep_ms=0

.PHONY: test
test: host test-programs ## Run all tests with the race detector and print the slowest packages. TEST_DURATION
	hack/test.sh $(TEST_DURATION)

# How long things go wrong in each run of "make chaos", and how long "make soak" keeps Leat at work. Of chaos: the seed of the first run, 0
# for any; and how many runs there are, of one seed after the other.
DURATION ?= 10m
SEED ?= 0
SEEDS ?= 1

.PHONY: chaos
chaos: host test-programs ## Have everything go wrong at random and hold Leat to its promises. DURATION, SEED, SEEDS
	$(GO) test -v -count=1 -timeout 0 ./test/chaos -args -duration=$(DURATION) -seed=$(SEED) -seeds=$(SEEDS)

.PHONY: clients
clients: test-programs ## Test Leat with an old kubectl, Flux, and clients in Python and JavaScript, which it installs
	hack/clients/install.sh
	cd hack/clients && $(GO) test -count=1 ./...

.PHONY: soak
soak: host test-programs ## Keep Leat at work for DURATION, and look whether anything grows
	$(GO) test -v -count=1 -timeout 0 ./test/soak -run TestSoak -args -duration=$(DURATION)

.PHONY: e2e
e2e: host test-programs ## Test Leat on a real control plane, with the arguments, roles and accounts that config/ ships
	$(GO) test -race -p 1 -timeout 30m ./test/e2e ./test/replicas ./test/contract ./test/install ./test/host ./test/conformance

.PHONY: e2e-cluster
e2e-cluster: build ## Install, use and remove Leat on the cluster of KUBECONFIG: see hack/e2e-cluster.sh
	hack/e2e-cluster.sh

.PHONY: bench
bench: build host ## Measure Leat beside a CRD, Pods and etcd itself, an hour at most, on a machine that does nothing else: docs/reference/performance.md
	$(GO) run ./test/bench --watchers=1,100,1000,10000 --json=bin/bench.json --plots=bin/bench $(BENCH)

.PHONY: bench-quick
bench-quick: build host ## Measure ratios only, two minutes, beside those of the last "make bench"
	$(GO) run ./test/bench --quick $(if $(wildcard bin/bench.json),--against=bin/bench.json) $(BENCH)

.PHONY: profile
profile: build host ## Measure again where leat-apiserver's time goes, for "make build"
	mkdir -p bin/profiles
	$(GO) run ./test/bench --only=operations --rounds=1 --cpu-profiles=bin/profiles
	$(GO) run ./test/load --completions=15000 --cpu-profile=bin/profiles/lifecycle.pprof
	$(GO) tool pprof -proto bin/profiles/*-leat-json.pprof bin/profiles/*-leat-protobuf.pprof bin/profiles/lifecycle.pprof > hack/default.pgo

.PHONY: generate
generate: ## Generate all that follows from the types in apis/, and the pages of docs/reference
	hack/generate.sh

.PHONY: verify
verify: ## Generate everything and fail unless the tree is then clean
	hack/verify.sh

.PHONY: lint
lint: ## Check format, common mistakes, import arrows, and links between pages
	hack/lint.sh

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
