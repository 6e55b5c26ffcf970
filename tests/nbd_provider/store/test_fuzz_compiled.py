"""Random and hostile arguments to the modules in C: what Python says, and nothing that sanitizers find."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from shadowset import nbd_provider
from shadowset.nbd_provider.store import resident

HERE = Path(nbd_provider.__file__).parent
MODULES = {
    "_plain_writes": ["plain_writes.c"],
    "_random_reads": ["random_reads.c"],
    "_resident": ["store/resident.c", "store/bus_errors.c", "store/copy_reads.c", "store/copy_send.c"],
}
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Wshadow", "-Wno-unused-parameter", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
TURNS = 150

compiled = pytest.mark.skipif(
    not resident.COMPILED, reason="the modules in C were not built: gcc or python3-dev missing"
)


def library(name: str) -> str:
    """Where the compiler has a library; empty where it has none."""
    if not shutil.which("gcc"):
        return ""
    asked = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True, timeout=60)
    path = asked.stdout.strip()
    return path if os.path.isabs(path) else ""


@pytest.fixture
def sanitized(tmp_path: Path) -> Path:
    """The modules, built with sanitizers and without a warning."""
    if not library("libasan.so") or not library("libubsan.so"):
        pytest.skip("gcc or its libasan is missing")
    include = sysconfig.get_path("include")
    for name, sources in MODULES.items():
        command = ["gcc", "-O1", "-g", "-shared", "-fPIC", "-DPy_LIMITED_API=0x030b0000", "-isystem", include]
        command += [*WARNINGS, *SANITIZERS, "-o", f"{tmp_path}/{name}.so", *[f"{HERE}/{source}" for source in sources]]
        built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert built.returncode == 0, built.stderr
    return tmp_path


def fuzz(*arguments: str, environment: dict[str, str] | None = None) -> None:
    """With another seed each time, which is told when something is found."""
    script = str(Path(__file__).with_name("fuzz_compiled.py"))
    command = [sys.executable, script, str(random.SystemRandom().randrange(1 << 32)), str(TURNS), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **(environment or {})}
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr}"


@compiled
def test_they_say_what_python_says() -> None:
    fuzz()


@compiled
def test_sanitizers_find_nothing(sanitized: Path) -> None:
    libraries = f"{library('libasan.so')}:{library('libubsan.so')}"
    options = "detect_leaks=0:handle_sigbus=0"
    fuzz(str(sanitized), environment={"LD_PRELOAD": libraries, "ASAN_OPTIONS": options})
