# Everything a newcomer needs: each target sets up what it uses.
#
# One build configuration serves the program, the demo and the tests (release, no @testable
# imports), so nothing is compiled twice. Only the sanitizers build apart, in folders of their own.

SWIFT ?= swift
CONFIGURATION = -c release
DEMO_ARGUMENTS ?=
TEST_ARGUMENTS ?=
SOAK_MINUTES ?= 10

# Many tests run real servers and programs: all at once on a small machine they only wait for each other.
export SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH ?= 4

# Where the tests' own SoftHSM, a module in their process, finds what they write for it.
export SOFTHSM2_CONF := $(CURDIR)/.build/softhsm2.conf

.PHONY: help setup build demo test soak sanitize fuzz bench format lint docs clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

setup: ## Install what the build and the tests need (asks once)
	@scripts/setup

build: setup ## Build the program and the tests
	@echo "Building (the first time compiles TLS, X.509 and SQLite bindings too: about 6 minutes on 2 cores)"
	@$(SWIFT) build $(CONFIGURATION) --build-tests

demo: ## Watch signed readings arrive, and attacks being refused
	@scripts/setup --build-only
	@echo "Building (the first time compiles TLS, X.509 and SQLite bindings too: about 6 minutes on 2 cores)"
	@$(SWIFT) build $(CONFIGURATION) --product secure-mqtt
	@$(SWIFT) run $(CONFIGURATION) --skip-build secure-mqtt demo $(DEMO_ARGUMENTS)

test: build ## Run every test; the last line counts them
	@$(SWIFT) test $(CONFIGURATION) --disable-testable-imports --disable-xctest --skip-build $(TEST_ARGUMENTS)

soak: build ## The long suites: simulation, crashes and fuzzing for SOAK_MINUTES (10)
	@SECURE_MQTT_SOAK_MINUTES=$(SOAK_MINUTES) $(SWIFT) test $(CONFIGURATION) --disable-testable-imports \
		--disable-xctest --skip-build --filter 'Simulation|Crash|Fuzz'

sanitize: setup ## Run the tests under ThreadSanitizer, then under AddressSanitizer
	@scripts/sanitize thread
	@scripts/sanitize address

fuzz: setup ## Fuzz every decoder for SOAK_MINUTES (10)
	@$(SWIFT) build $(CONFIGURATION) --product fuzz
	@$(SWIFT) run $(CONFIGURATION) --skip-build fuzz --minutes $(SOAK_MINUTES)

bench: setup ## Measure on this machine, as ratios to its own limits
	@$(SWIFT) build $(CONFIGURATION) --product secure-mqtt
	@$(SWIFT) run $(CONFIGURATION) --skip-build secure-mqtt bench ingest

format: ## Format the sources
	@$(SWIFT) format -i --recursive --parallel Sources Tests Fuzz Examples Package.swift

lint: ## Check the format of the sources
	@$(SWIFT) format lint --strict --recursive --parallel Sources Tests Fuzz Examples Package.swift

docs: ## Build the documentation of the MQTT modules into .build/docs
	@$(SWIFT) build $(CONFIGURATION) --product secure-mqtt
	@scripts/docs

clean: ## Remove everything that was built
	@rm -rf .build .build-thread .build-address .venv .venv-licore demo
