# The only list of commands. `make` alone prints it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down password shell host venv test lint unit contract system soak bench validate lock docs clean

CLUSTER ?= demo
SUITE ?= trixie
HOST ?= login1
INVENTORY ?= inventories/demo
SCHEDULER ?= slurm
IMAGE ?=
PART ?=
export CLUSTER SUITE
# As it was typed: make would read its dollar signs.
export HPCHUB_CMD := $(value CMD)
export PATH := $(CURDIR)/molecule/bin:$(CURDIR)/.venv/bin:$(PATH)

VENV := .venv/.$(shell sha256sum files/locks/controller.txt | cut -c1-12)

help:            ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: host venv  ## A working hub on a Slurm cluster in containers; prints the URL and how to sign in (SUITE=bookworm for Debian 12)
	@ANSIBLE_FORCE_COLOR=0 molecule/bin/demo

demo-down:       ## Remove every trace of the demo from this machine
	@CLUSTER=demo tools/host down

password:        ## PIN and current one-time code of a demo user: make -s password USER=alice
	@molecule/bin/password "$(USER)"

shell:           ## A root shell on a test host: make shell HOST=login1 [CMD='systemctl status hpchub']
ifdef CMD
	@podman exec "hpchub-$(CLUSTER)-$(HOST)" bash -lc "$$HPCHUB_CMD"
else
	@podman exec -it "hpchub-$(CLUSTER)-$(HOST)" bash -l
endif

host:
	@tools/host

venv: $(VENV)    ## The controller's tools, exactly as locked, in .venv
$(VENV): files/locks/controller.txt
	@echo "==> Tools of the controller into .venv"
	@rm -rf .venv && python3 -m venv .venv
	@.venv/bin/pip install --quiet --no-compile --require-hashes -r files/locks/controller.txt
	@touch $@

test: host venv  ## Everything that has to pass: lint, unit, contract, system, side by side (SCHEDULER=pbs IMAGE=name: on PBS)
	@SCHEDULER="$(SCHEDULER)" IMAGE="$(IMAGE)" python tools/suite --checks

lint: venv       ## ansible-lint (production), yamllint, ruff, mypy strict, shellcheck: a minute and a half of one core
	@ruff check . && ruff format --check .
	@mypy
	@yamllint --strict .
	@shellcheck $$(git ls-files | xargs grep -lE '^#!/bin/(ba)?sh|^#!/usr/bin/env bash' --)
	@ansible-lint --offline

unit: venv       ## The package alone: a minute and a half of one core
	@pytest tests/unit

contract: venv   ## Defaults = specs = docs = models; what preflight says to wrong inventories
	@pytest tests/contract tests/preflight

system: host venv ## A real cluster, a real browser, by the parts of tests/system/parts.toml, or one: make system PART=labs
	@SCHEDULER="$(SCHEDULER)" IMAGE="$(IMAGE)" python tools/suite $(PART)

soak: venv       ## Long proofs and attacks at full figures, against the running demo
	@HPCHUB_SOAK=1 pytest tests/unit/test_hostile.py
	@CLUSTER=demo pytest tests/system -m soak -s

bench: venv      ## Measurements, against the running demo: a table and build/benchmark.json
	@CLUSTER=demo pytest tests/system -m bench -s

validate: venv   ## Check an inventory, change nothing: make validate INVENTORY=inventories/mysite
	@test "$(origin INVENTORY)" != file || echo "==> No INVENTORY is given: this checks the demo's, $(INVENTORY)"
	@ansible-playbook -i "$(INVENTORY)" playbooks/validate.yml

lock: venv       ## Make all locks anew
	@tools/build lock

docs: venv       ## docs/reference.md and the tables in other pages, from argument_specs and from the code
	@python tools/reference

clean:           ## Remove what was built in this checkout
	@rm -rf build .venv
