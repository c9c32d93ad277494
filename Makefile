# All that is done with this repository. "make help" lists it.

GO ?= go
VERSION ?= v0.1.0-dev+$(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
IMAGE ?= leat:$(subst +,-,$(VERSION))
# Optimize by cmd/*/default.pgo. That compiles all of leat-apiserver anew, which takes minutes the first time: PGO=off leaves it.
PGO ?= auto
LDFLAGS := -X k8s.io/component-base/version.gitVersion=$(VERSION)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -pgo=$(PGO) -ldflags '-s -w $(LDFLAGS)' -o bin/ ./cmd/...

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
	$(GO) build -race -pgo=off -ldflags '$(LDFLAGS)' -o bin/test/ ./cmd/...

.PHONY: test
test: host test-programs ## Run all tests, with the race detector
	$(GO) test -race -pgo=off ./apis/... ./cmd/... ./config/... ./hack/... ./pkg/...
	cd hack/host && $(GO) test ./...
	# One package at a time: each starts control planes of its own.
	$(GO) test -race -p 1 -timeout 30m ./test/...

.PHONY: e2e
e2e: host test-programs ## Test Leat on a real control plane, with the arguments, roles and accounts that config/ ships
	$(GO) test -race -p 1 -timeout 30m ./test/e2e ./test/replicas ./test/contract ./test/install ./test/host ./test/conformance

.PHONY: e2e-cluster
e2e-cluster: build ## Install, use and remove Leat on the cluster of KUBECONFIG: see hack/e2e-cluster.sh
	hack/e2e-cluster.sh

.PHONY: pgo
pgo: build host ## Profile leat-apiserver at work: what "make build" optimizes it by
	$(GO) run ./test/load --completions=15000 --cpu-profile=cmd/leat-apiserver/default.pgo

.PHONY: generate
generate: ## Generate all that follows from the types in apis/
	hack/generate.sh

.PHONY: verify
verify: ## Generate everything and fail unless the tree is then clean
	hack/verify.sh

.PHONY: lint
lint: ## Check format, common mistakes and the import arrows
	hack/lint.sh

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
