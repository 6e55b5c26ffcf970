# make demo   the product doing its main job on two real volumes (root, Debian or a relative)
# make test   all tests (root on Debian 12: nothing is skipped)
# make test-long  what takes minutes: whole guests, twenty rounds of every writer, kills (PYTEST_ARGS as for test)
# make test-boot  a Debian with systemd in user-mode-linux: units, mounts at boot, shutdown, power cuts (root; some minutes)
# make test-farm  the farm of Plone sites, with what it needs (root; minutes, and 400 MB in .venv-farm)
# make check  formatting, lint and types
# make bench  every figure beside its bar, against other NBD servers too, with table and plot
# make manual man pages and shell completions of all programs, below build/manual
# make deb    the Debian package, below dist
# make clean  remove what these made

PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)
VENV := .venv
BIN := $(VENV)/bin
RUN_AS_ROOT := if [ "$$(id -u)" != 0 ]; then \
	echo "make $@: mounting file systems and making block devices needs root; run it as root" >&2; exit 2; fi

.PHONY: demo test test-long test-boot test-farm check bench manual deb clean

demo:
	@$(RUN_AS_ROOT)
	@PYTHON=$(PYTHON) tests/install.sh demo
	@$(BIN)/python -m shadowset.requester.demo

test: check
	@$(BIN)/python tests/side_by_side.py $(PYTEST_ARGS)

test-long: check
	@PYTHON=$(PYTHON) tests/install.sh long || true
	@test -x .venv-s3/bin/moto_server || { $(PYTHON) -m venv .venv-s3 && .venv-s3/bin/pip install -q 'moto[server,s3]'; }
	@sh tests/fetch_mysql.sh || true
	@$(BIN)/python -m pytest --long $(PYTEST_ARGS)

test-boot:
	@$(RUN_AS_ROOT)
	@PYTHON=$(PYTHON) tests/install.sh boot
	@$(BIN)/python -m pytest --long tests/boot $(PYTEST_ARGS)

test-farm:
	@$(RUN_AS_ROOT)
	@PYTHON=$(PYTHON) tests/install.sh farm
	@SHADOWSET_PLONE=.venv-farm $(BIN)/python -m pytest tests/chain/test_plone_farm.py $(PYTEST_ARGS)

check:
	@PYTHON=$(PYTHON) tests/install.sh test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench:
	@$(RUN_AS_ROOT)
	@PYTHON=$(PYTHON) tests/install.sh bench
	@$(BIN)/python -m benchmarks

manual:
	@PYTHON=$(PYTHON) tests/install.sh test
	@$(BIN)/python docs/generate_manual.py build/manual

deb:
	@PYTHON=$(PYTHON) tests/install.sh deb
	@$(BIN)/python package/build_deb.py dist

clean:
	rm -rf $(VENV) .venv-farm .venv-s3 build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -not -path './.git/*' -exec rm -rf {} +
