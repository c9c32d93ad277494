# Targets for building, testing and measuring Leat. "make help" lists them.

GO ?= go
VERSION ?= v0.1.0-dev+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
IMAGE ?= leat:$(subst +,-,$(VERSION))
# Profile for profile-guided optimization, which "make profile" records. Tests are built without it.
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

# Files of a release: hack/release. IMAGE without a tag, such as registry.example.com/leat, is where the image will be;
# PUSH=true pushes it there. PLATFORMS is a list such as linux/amd64,darwin/arm64.
.PHONY: release
release: VERSION := v0.1.0
release: ## Write the files of a release into dist/. VERSION, IMAGE (a repository), PUSH=true, PLATFORMS
	rm -rf dist
	cd hack/release && $(GO) run . --version='$(VERSION)' $(if $(filter command line environment,$(origin IMAGE)),--image='$(IMAGE)') \
		$(if $(PLATFORMS),--platforms='$(PLATFORMS)') $(if $(filter true,$(PUSH)),--push)

.PHONY: run
run: ## Run everything on this machine, with a sample at the first start. UP: flags of "leat up"
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/leat
	bin/leat up --sample $(UP)

.PHONY: kubectl
kubectl: ## Build kubectl into bin/host, for machines without it
	hack/host/build.sh bin/host kubectl

.PHONY: host
host: ## Build etcd, Kubernetes, helm and versitygw into bin/host, for tests
	hack/host/build.sh bin/host

.PHONY: test-programs
test-programs: ## Build the programs for tests into bin/test, with the race detector
	$(GO) build -race -ldflags '$(LDFLAGS)' -o bin/test/ ./cmd/...

.PHONY: browser
browser: ## Install Debian's chromium if it is missing, for tests. LEAT_SKIP_BROWSER skips them
	hack/install-chromium.sh

# How long "make test" runs chaos and soak. "make chaos" and "make soak" run longer.
TEST_DURATION ?= 1m
# By default, programs with the race detector sleep for a second before they exit.
export GORACE ?= atexit_sleep_ms=0

.PHONY: test
test: host test-programs browser ## Run all tests with the race detector and print the slowest packages. TEST_DURATION
	hack/test.sh $(TEST_DURATION)

# DURATION is the duration of "make soak" and of each run of "make chaos". SEED is the seed of the first run of chaos, 0
# for a random one. SEEDS is the number of runs, each with the next seed.
DURATION ?= 10m
SEED ?= 0
SEEDS ?= 1

.PHONY: chaos
chaos: host test-programs ## Inject random faults and check Leat's guarantees. DURATION, SEED, SEEDS
	$(GO) test -v -count=1 -timeout 0 ./test/chaos -skip TestSoak -args -duration=$(DURATION) -seed=$(SEED) -seeds=$(SEEDS)

.PHONY: clients
clients: test-programs ## Install and test an old kubectl, Flux, and clients in Python and JavaScript
	hack/clients/install.sh
	cd hack/clients && $(GO) test -count=1 ./...

.PHONY: soak
soak: host test-programs ## Run Leat under load for DURATION, and check that nothing grows
	$(GO) test -v -count=1 -timeout 0 ./test/chaos -run TestSoak -args -duration=$(DURATION)

.PHONY: e2e
e2e: host test-programs ## Test Leat on a real control plane, with the arguments, roles and accounts of config/
	$(GO) test -race -p 1 -timeout 30m ./test/incluster ./test/kit/host ./test/api

.PHONY: e2e-cluster
e2e-cluster: build ## Install, test and remove Leat on the cluster of KUBECONFIG: see hack/e2e-cluster.sh
	hack/e2e-cluster.sh

.PHONY: bench
bench: build host ## Measure Leat, xargs, a CRD, Pods and etcd, for up to an hour and a half on an idle machine: docs/reference/performance.md
	$(GO) run ./test/perf/bench --watchers=1,100,1000,10000 --json=bin/bench.json --plots=bin/bench $(BENCH)

.PHONY: bench-quick
bench-quick: build host ## Measure ratios for four minutes, and compare them with the last "make bench"
	$(GO) run ./test/perf/bench --quick $(if $(wildcard bin/bench.json),--against=bin/bench.json) $(BENCH)

.PHONY: profile
profile: build host ## Record the CPU profile of leat-apiserver that "make build" uses
	mkdir -p bin/profiles
	$(GO) run ./test/perf/bench --only=operations --rounds=1 --cpu-profiles=bin/profiles
	$(GO) run ./test/perf/load --completions=15000 --cpu-profile=bin/profiles/lifecycle.pprof
	$(GO) tool pprof -proto bin/profiles/*-leat-json.pprof bin/profiles/*-leat-protobuf.pprof bin/profiles/lifecycle.pprof > hack/default.pgo

.PHONY: generate
generate: ## Generate code from the types in apis/
	hack/generate.sh

.PHONY: verify
verify: ## Fail if generated code is not up to date
	hack/verify.sh

.PHONY: lint
lint: ## Check format, common mistakes, import arrows and the words of comments
	hack/lint.sh

.PHONY: clean
clean: ## Remove bin/ and dist/
	rm -rf bin dist
