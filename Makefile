# Everything is made from a clone: `make demo` shows the mesh, `make test` proves it. Both need root (network namespaces) and Debian.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
# What the mesh uses of Debian: rules (nft), links (ip), flows (conntrack), containers (crun); curl, busybox and nginx are what the sample images are made of.
DEBIAN := nftables iproute2 conntrack crun curl busybox-static
# What only the tests use.
DEBIAN_TEST := tcpdump
# What only the benchmarks use: what loads a path, what serves at its end, and what it is compared with.
DEBIAN_BENCH := wrk nghttp2-client iperf3 haproxy
BENCH := startup memory dataplane policy curves certificates controlplane api
# Imported once at installation, because pods see the environment read-only and could never keep what they compiled.
PROGRAMS := tulle.cli.main, tulle.cluster.control_plane, tulle.cluster.node.app, tulle.istiod.__main__, tulle.cni.__main__, \
	tulle.ztunnel.__main__, tulle.waypoint.__main__

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: install debian debian-test demo lab test lint unit e2e bench bench-quick soak debian-bench bench-charts proto clean

install: debian $(VENV)/.installed

debian:
	@./scripts/debian $(DEBIAN)

debian-test:
	@./scripts/debian $(DEBIAN) $(DEBIAN_TEST)

$(VENV)/.installed: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || ./scripts/debian python3-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv sync --frozen --inexact --quiet
	@PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -c 'import $(PROGRAMS)'
	@touch $@

demo: install
	@./scripts/demo

lab: install
	tulle lab

test: debian-test $(VENV)/.installed lint
	@./scripts/test

lint: $(VENV)/.installed
	ruff check src tests bench
	ruff format --check src tests bench
	lint-imports
	mypy

unit: $(VENV)/.installed
	pytest -m "not e2e"

e2e: debian-test $(VENV)/.installed
	pytest -m e2e

debian-bench:
	@./scripts/debian $(DEBIAN) $(DEBIAN_BENCH)

bench-charts: $(VENV)/.installed
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv sync --frozen --inexact --quiet --group bench

bench: debian-bench bench-charts
	@for part in $(BENCH); do echo "== $$part"; python -m bench.$$part || exit 1; done

# Without a network what is missing stays so, and the parts that need it are left out.
bench-quick: $(VENV)/.installed
	-@$(MAKE) --silent debian-bench
	@python -m bench.quick

MINUTES := 15
soak: debian-bench bench-charts
	python -m bench.soak --minutes $(MINUTES)

proto: $(VENV)/.installed
	cd src && ../$(VENV)/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. tulle/xds/proto/*.proto

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
