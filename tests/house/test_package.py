"""What is given away: sdist, wheel and Debian package hold what they should, install, and leave again."""

from __future__ import annotations

import email.parser
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from shadowset import __version__
from shadowset.nbd_provider.store.resident import COMPILED

ROOT = Path(__file__).resolve().parents[2]
COPY_OF_HOST = Path(__file__).with_name("copy_of_host.sh")
ROOMS = sorted(path.name for path in (ROOT / "src/shadowset").iterdir() if path.is_symlink() and path.name != "systemd")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
LEAVE_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "*.so"
)


def ran(*command: object, **more: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=170, check=False, **more
    )  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel made from the sdist."""
    directory = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, directory / "tree", symlinks=True, ignore=LEAVE_OUT)
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, directory / "tree")
    return directory


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def package(built: Path, wheel: Path) -> Path:
    """The Debian package."""
    pytest.importorskip("argparse_manpage", reason="not installed: argparse-manpage")
    if shutil.which("dpkg-deb") is None:
        pytest.skip("not installed: dpkg-deb")
    spec = importlib.util.spec_from_file_location("build_deb", ROOT / "package" / "build_deb.py")
    assert spec is not None and spec.loader is not None
    builder: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    made: Path = builder.main(built / "deb", wheel)
    return made


IN_C = {
    "shadowset/nbd_provider/_plain_writes.abi3.so",
    "shadowset/nbd_provider/_random_reads.abi3.so",
    "shadowset/nbd_provider/store/_resident.abi3.so",
}


def held_by(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_from_the_sdist_holds_exactly_the_modules_of_the_tree(wheel: Path) -> None:
    held = held_by(wheel)
    expected = {f"shadowset/{path.relative_to(ROOT)}" for room in ROOMS for path in (ROOT / room).rglob("*.py*")}
    expected = {name for name in expected if name.endswith((".py", ".pyi"))}
    expected |= IN_C if COMPILED else set()
    expected |= {"shadowset/__init__.py", "shadowset/py.typed"}
    expected |= {f"shadowset/systemd/{path.name}" for path in (ROOT / "systemd").iterdir() if path.suffix != ".md"}
    assert held == expected


def test_without_a_compiler_the_module_in_c_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=LEAVE_OUT)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, tmp_path / "tree"]
    ran(*command, env={**os.environ, "CC": "false"})
    (wheel,) = tmp_path.glob("*.whl")
    held = held_by(wheel)
    assert not IN_C & held and "shadowset/nbd_provider/store/resident.py" in held


def test_the_sdist_brings_what_the_wheel_is_made_of_and_nothing_of_this_place(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", "src/shadowset/systemd/shadowsetd.service"} <= names
    assert not [name for name in names if ".venv" in name or name.endswith(".pyc")]


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = email.parser.Parser().parsestr(archive.read(name).decode())
    assert told["Name"] == "shadowset" and told["Version"] == __version__
    assert told["License"] == "Apache-2.0" and told["Requires-Python"] == ">=3.11"
    assert str(told.get_payload()).startswith("# Shadowset")
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    ran(sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty")
    python = tmp_path / "empty/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", "--quiet"]
    ran(*pip, "--disable-pip-version-check", wheel)
    site = ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    libraries = next(path for path in sys.path if path.endswith("site-packages") and Path(path, "msgspec").is_dir())
    Path(site, "libraries.pth").write_text(f"{libraries}\n")  # what it needs, as if it had been downloaded
    assert ran(tmp_path / "empty/bin/shadowset", "--version").strip() == f"shadowset {__version__}"
    assert ran(python, "-c", "import shadowset; print(shadowset.__file__)").startswith(site)
    said = ran(tmp_path / "empty/bin/shadowset", "setup", "--root", tmp_path, "--dry-run")
    assert f"would be made  file {tmp_path}/etc/systemd/system/shadowsetd.service" in said


def test_the_package_has_all_that_belongs_on_a_host(package: Path, tmp_path: Path) -> None:
    assert ran("dpkg-deb", "--field", package, "Version").strip() == __version__
    ran("dpkg-deb", "--extract", package, tmp_path)
    held = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    for name in SCRIPTS:
        assert {f"usr/bin/{name}", f"usr/share/man/man8/{name}.8.gz"} <= held
    assert {"usr/share/bash-completion/completions/shadowset", "usr/share/zsh/vendor-completions/_shadowset"} <= held
    units = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix != ".md"}
    assert units == {path.name for path in (tmp_path / "lib/systemd/system").iterdir()}
    assert not [name for name in held if name.endswith(".pyc") or "/tests/" in name]
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert os.fsencode(ROOT) not in path.read_bytes(), f"{path} knows where it was built"
    for unit in (tmp_path / "lib/systemd/system").iterdir():
        for line in unit.read_text().splitlines():
            if line.startswith("Exec"):
                assert (tmp_path / line.partition("=")[2].split()[0].lstrip("-+!@:/")).is_symlink(), line


INSTALLED = """\
set -eu
rm -rf /etc/shadowset /var/lib/shadowset
dpkg --install "$1" >/dev/null
test "$(shadowset --version)" = "shadowset $2"
getent group shadowset >/dev/null
test "$(stat -c %a /var/lib/shadowset)" = 700
test -L /etc/systemd/system/multi-user.target.wants/shadowsetd.service
shadowset setup --json | grep '"result"' | sort -u | tee /dev/stderr | grep -qv there && exit 1
shadowset-writer-postgresql --help >/dev/null
shadowset metrics --help >/dev/null
shadowset serve >/tmp/log 2>&1 &
pid=$!
n=0; until shadowset status >/dev/null 2>&1; do n=$((n + 1)); test $n -lt 300; sleep 0.2; done
shadowset list
kill $pid; wait $pid
echo 'hold_ms = 9000' >>/etc/shadowset/shadowsetd.toml
mkdir /var/lib/shadowset/storage/data; echo old >/var/lib/shadowset/storage/data/table
dpkg --remove shadowset >/dev/null
test ! -e /usr/bin/shadowset
test ! -e /etc/systemd/system/multi-user.target.wants/shadowsetd.service
if getent group shadowset; then exit 1; fi
grep -q hold_ms /etc/shadowset/shadowsetd.toml
dpkg --purge shadowset >/tmp/purged
grep -q '/var/lib/shadowset remains' /tmp/purged
test ! -e /etc/shadowset
test "$(cat /var/lib/shadowset/storage/data/table)" = old
test ! -e /usr/lib/shadowset
echo all is well
"""


def why_no_copy() -> str:
    if os.geteuid() != 0:
        return "needs root: a copy of the host to install into"
    with open("/proc/filesystems") as file:
        return "" if "\toverlay\n" in file.read() else "the kernel has no overlay file system"


@pytest.mark.long
@pytest.mark.host
@pytest.mark.skipif(bool(why_no_copy()), reason=why_no_copy())
def test_the_package_installs_works_and_leaves_again(package: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    # the copy has a /tmp of its own, in which the package would not be seen
    with open(package, "rb") as file:
        script = f"cat >/srv/shadowset.deb\nset -- /srv/shadowset.deb {__version__}\n{INSTALLED}"
        done = subprocess.run(
            [str(COPY_OF_HOST), str(tmp_path / "copy"), "/bin/sh", "-c", script],
            stdin=file, capture_output=True, text=True, timeout=170, check=False,
        )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("all is well\n"), done
    assert not list((tmp_path / "copy").iterdir())
