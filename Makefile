# gregor: everything a developer runs. Only Go is needed for run, build, test,
# lint and fuzz; compat also uses what clients it finds on the machine.

GO       ?= go
FUZZTIME ?= 5s
CHAOSTIME ?= 10m
CHAOSBROKERS ?= 3
CHAOSCLIENTS ?= all
PKGS     ?= ./...
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# The linter and its hundreds of modules live in a module of their own.
LINT     := $(GO) tool -modfile=tools/go.mod golangci-lint

.PHONY: run build test race lint fmt fuzz bench compat chaos up down clean

## run: build gregor and start it on port 9092 with its data in ./data
run: build
	./bin/gregor start

## build: the static binary in ./bin
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/gregor ./cmd/gregor

## test: all tests of the broker; needs nothing but Go
test:
	$(GO) vet $(PKGS)
	$(GO) test -timeout 20m $(PKGS)
	$(MAKE) -C compat-tests test GO='$(GO)'
	$(MAKE) -C bench test GO='$(GO)'

## race: the same under the race detector
race:
	$(GO) test -race -timeout 40m $(PKGS)

## lint: golangci-lint with the rules of .golangci.yml, formatting included
lint:
	$(LINT) run $(PKGS)
	$(LINT) fmt --diff

## fmt: format all Go files as lint wants them
fmt:
	$(LINT) fmt

## fuzz: run every fuzz target for FUZZTIME
fuzz:
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' ./internal/lint/fuzz-all

## bench: measure gregor beside Apache Kafka and the machine's floor
bench:
	@test -d bench || { echo "bench/ does not exist in this tree"; exit 1; }
	$(MAKE) -C bench bench

# Each part runs whatever became of the one before.
## compat: real clients against gregor and against Apache Kafka, and the clients' own tests against gregor
compat: build
	@cd compat-tests && GREGOR_BIN=$(CURDIR)/bin/gregor && export GREGOR_BIN && failed=0 && set -x; \
	$(GO) test -count=1 -timeout 90m -parallel 12 -broker both -clients all $(COMPATFLAGS) || failed=1; \
	$(GO) test ./cluster -count=1 -timeout 90m -long -broker gregor -clients all || failed=1; \
	$(GO) test ./cluster -count=1 -timeout 90m -long -broker kafka || failed=1; \
	$(GO) run ./suites || failed=1; \
	exit $$failed

## chaos: clients under faults for CHAOSTIME, what they saw judged; CHAOSFLAGS='-seed N' for the same again
chaos: build
	cd compat-tests && $(GO) run ./chaos -gregor $(CURDIR)/bin/gregor -brokers $(CHAOSBROKERS) -clients $(CHAOSCLIENTS) -for $(CHAOSTIME) $(CHAOSFLAGS)

## up: three brokers in containers, on ports 9092, 9192 and 9292
up:
	docker compose up --build --detach --wait

## down: stop the containers; their data stays in the volumes
down:
	docker compose down

clean:
	rm -rf bin
