# SPDX-License-Identifier: Apache-2.0
# One place for every command of the project; `make` lists them.

export SPARKD_CACHE ?= $(HOME)/.cache/sparkd

# What Python has compiled is kept, whatever the environment says: it saves a short run seconds.
unexport PYTHONDONTWRITEBYTECODE

VENV := $(SPARKD_CACHE)/venv-$(shell sha256sum tests/requirements.txt | cut -c1-16)
PYTEST := $(VENV)/bin/python -m pytest
HOST := tests/host/host

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: demo
demo: deb ## show it all on a booted host: ask a model, watch it start, answer and leave
	tests/host/demo

.PHONY: deb
deb: ## build dist/sparkd_*.deb
	packaging/build-deb.sh

.PHONY: wheel
wheel: ## build dist/sparkd-*.tar.gz and dist/sparkd-*.whl, for development
	packaging/build-wheel.sh

.PHONY: test
test: tools venv deb ## everything, unit to system
	SPARKD_EXAMPLES=$${SPARKD_EXAMPLES:-100} $(PYTEST) tests -m "not long"

.PHONY: test-unit
test-unit: venv ## pure code, linters and types: seconds
	$(PYTEST) tests/unit

.PHONY: test-integration
test-integration: tools venv ## real locks, sockets and processes on this machine
	$(PYTEST) tests/integration

.PHONY: test-system
test-system: tools venv deb ## the real thing on booted hosts
	$(PYTEST) tests/system -m "not long"

.PHONY: test-clients
test-clients: tools venv deb ## libraries and agents that people use, on a booted host, all of it
	$(PYTEST) tests/clients

.PHONY: soak
soak: tools venv deb ## half an hour of random use and random kills (SPARKD_SOAK_S sets the time)
	SPARKD_SOAK_S=$${SPARKD_SOAK_S:-1800} $(PYTEST) tests/system/test_soak.py --timeout 4000 -s

.PHONY: long-run
long-run: tools venv deb ## three quarters of an hour with everything on (SPARKD_LONG_S sets the time)
	$(PYTEST) tests/system/test_long_run.py -s

.PHONY: faults
faults: tools venv deb ## what breaks around sparkd, one after the other: docs/reliability.md
	$(PYTEST) tests/system/test_faults.py tests/system/test_clock.py -s

.PHONY: rounds
rounds: tools venv deb ## races, as often as docs/reliability.md says: two models at once, idle stops
	SPARKD_SWAP_ROUNDS=$${SPARKD_SWAP_ROUNDS:-50} SPARKD_IDLE_ROUNDS=$${SPARKD_IDLE_ROUNDS:-500} \
	    $(PYTEST) tests/system/test_races.py --timeout 4000 -s

.PHONY: fuzz
fuzz: tools venv ## strange input for all that reads any, three minutes each (SPARKD_FUZZ_S)
	SPARKD_FUZZ_S=$${SPARKD_FUZZ_S:-180} $(PYTEST) tests/fuzz -s

.PHONY: bench
bench: venv deb ## measure beside other gateways; prints, asserts nothing (BENCH=--alone: without them)
	$(VENV)/bin/python tests/bench/run.py $(BENCH)

.PHONY: pins
pins: venv ## hashes for whatever is pinned (PINS=--newer: newest releases of what no person pinned)
	$(VENV)/bin/python packaging/pins.py $(PINS)

.PHONY: tools
tools: ## the programs that the tests call, by apt where they are missing
	@python3 -c 'import ensurepip' 2>/dev/null || missing=python3-venv; \
	for tool in git:git systemd-analyze:systemd dbus-daemon:dbus node:nodejs npm:npm \
	    chromium:chromium lintian:lintian man:man-db faketime:faketime \
	    zsh:zsh fish:fish; do \
	    command -v "$${tool%%:*}" >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ]; then echo "tools: installing$$missing"; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; fi

.PHONY: venv
venv: $(VENV)/.complete ## the pinned tools and libraries of the tests, in the cache; says where
	@echo $(VENV)

# Its name holds what it is made from: a file that is only newer makes no other environment. What has
# no wheel is built by tools that are pinned too, not by what pip would fetch for it.
$(VENV)/.complete: | tests/requirements.txt
	@echo "venv: installing tests/requirements.txt into $(VENV)"
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --require-hashes --no-deps \
	    --requirement packaging/build-requirements.txt
	$(VENV)/bin/pip install --quiet --require-hashes --no-build-isolation --use-pep517 \
	    --requirement tests/requirements.txt
	touch $@

.PHONY: clean
clean: ## remove what was built here (the cache stays)
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
