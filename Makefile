# What the tests need besides Go. Debian package names; commands to look for.
PACKAGES := openssl python3 curl
COMMANDS := openssl python3 curl

# Each fuzz target runs this long in `make fuzz`.
FUZZTIME ?= 5s

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test deps race check fuzz bench fire mutants

build: ## bin/nodectl, with secrets erased from the heap by the runtime
	GOEXPERIMENT=runtimesecret go build -trimpath -o bin/nodectl ./cmd/nodectl

test: deps ## everything but the fire
	go build ./...
	go test -timeout 15m ./...
	go test -timeout 15m -tags faults -run '^(TestCrash|TestLiar)' ./cmd/nodectl

deps: ## installs what the tests need (root on Debian), or names what is missing
	@missing=""; for c in $(COMMANDS); do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get -o DPkg::Lock::Timeout=300 update -qq && \
		apt-get -o DPkg::Lock::Timeout=300 install -y -qq $(PACKAGES); \
	else echo "the tests need:$$missing (Debian packages: $(PACKAGES))" >&2; exit 1; fi

race: deps ## without the tests that only are large
	go test -race -short -timeout 20m ./...

check:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	go vet ./...
	go vet -tags faults ./...
	go mod tidy -diff
	go run $(STATICCHECK) ./...
	go run $(STATICCHECK) -tags faults ./...
	GOEXPERIMENT=runtimesecret go vet ./...
	GOEXPERIMENT=runtimesecret go test ./internal/...
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet ./internal/... ./hsm/... ./dkek ./fsm ./transport

fuzz: ## every fuzz target for FUZZTIME
	@for package in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "fuzz $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$package || exit 1; \
		done; \
	done

bench: ## the figures of docs/performance.md, on a machine that does nothing else: about an hour
	go test -run '^$$' -bench . -benchtime 1s -p 1 -timeout 90m ./...

fire: deps ## five nodes under load, and all that can befall them: minutes; as root, for disks of its own
	go test -timeout 15m -tags faults -run '^TestFire$$' -v ./cmd/nodectl

mutants: deps ## each guard of docs/mutants.md taken out, and its test seen red: up to half an hour
	go test -run '^TestMutantsAreSeen$$' -mutants -v -timeout 60m .
