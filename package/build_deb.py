"""Build the Debian package: ``python package/build_deb.py DIRECTORY`` (``make deb``) writes DIRECTORY/shadowset_*.deb.

The package brings its libraries along, in a virtual environment of its own below /usr/lib/shadowset that runs on
Debian's python3.11: Debian 12 has no msgspec and no mfusepy, and older redis and PyMySQL than are needed.
It installs without a network. psycopg is not brought along: Debian has one that will do, made for Debian's libpq.

What is packed are the libraries of the environment that runs this program, so they are those that the tests ran with.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from time import gmtime

from packaging.requirements import Requirement

from shadowset import __version__
from shadowset.requester.setup.plan import EXAMPLE_BIN, SETTINGS, UNIT_KINDS

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "package"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
HOME = "usr/lib/shadowset"
LIBRARIES = f"{HOME}/lib/{PYTHON}/site-packages"
EXTRAS = ("mariadb", "redis", "metrics")
MAINTAINER = "Shadowset developers <developers@shadowset.invalid>"
LEFT_OUT = ("__pycache__", "tests", "test")
IGNORED = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "*.so")
CONFIG_DIRECTORIES = ("shadowsetd.d", "access.d", "express-writers.d", "jobs.d", "writers.d")
LAUNCHER = """\
#!/usr/lib/shadowset/bin/python3
import sys

from {module} import {function}

sys.exit({function}())
"""


def main(directory: Path, wheel: Path | None = None) -> Path:
    """Build it, from this wheel or a fresh one; the file."""
    with tempfile.TemporaryDirectory(prefix="shadowset-deb-") as scratch:
        stage = Path(scratch) / "stage"
        environment(stage)
        unpack(stage, wheel or build_wheel(Path(scratch)))
        for name in closure():
            library(stage, name)
        programs(stage)
        manual(stage, Path(scratch) / "manual")
        units(stage)
        documents(stage)
        settings(stage)
        control(stage)
        settle(stage)
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"shadowset_{__version__}_{architecture()}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(stage), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return target


# ---- the programs and what they need ----


def environment(stage: Path) -> None:
    """A virtual environment is these two files; Debian's own packages are seen behind ours."""
    (stage / HOME / "bin").mkdir(parents=True)
    (stage / HOME / "bin/python3").symlink_to(f"../../../bin/{PYTHON}")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (stage / HOME / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {version}\n"
    )


def build_wheel(scratch: Path) -> Path:
    """From a clean copy of the tree, so that nothing left in build/ gets in."""
    tree = scratch / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*IGNORED))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the wheel cannot be built:\n{done.stdout}{done.stderr}")
    (wheel,) = scratch.glob("*.whl")
    return wheel


def unpack(stage: Path, wheel: Path) -> None:
    """Our own modules."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(stage / LIBRARIES)


def closure() -> list[str]:
    """The distributions that Shadowset needs, itself not among them."""
    wanted = {"shadowset": set(EXTRAS)}
    seen: set[str] = set()
    while wanted:
        name, extras = wanted.popitem()
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            markers = [{"extra": extra} for extra in ("", *extras)]
            applies = need.marker is None or any(need.marker.evaluate(each) for each in markers)
            if applies and need.name not in seen:
                wanted[need.name] = set(need.extras)
    return sorted(seen - {"shadowset"})


def library(stage: Path, name: str) -> None:
    """Copy one distribution: its modules and what says which version and licence it has."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or []:
        if ".." in file.parts or file.is_absolute() or any(part in LEFT_OUT for part in file.parts[:-1]):
            continue
        if file.parts[0].endswith(".dist-info") and file.name in (
            "RECORD",
            "INSTALLER",
            "REQUESTED",
            "direct_url.json",
        ):
            continue
        target = stage / LIBRARIES / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(distribution.locate_file(file)), target)


def scripts() -> dict[str, str]:
    """Name and entry point of each program."""
    found: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    return found


def programs(stage: Path) -> None:
    """A launcher each, in the environment, and a link to it."""
    (stage / "usr/bin").mkdir(parents=True)
    for name, target in scripts().items():
        module, _, function = target.partition(":")
        launcher = stage / HOME / "bin" / name
        launcher.write_text(LAUNCHER.format(module=module, function=function))
        launcher.chmod(0o755)
        (stage / "usr/bin" / name).symlink_to(f"../lib/shadowset/bin/{name}")


# ---- what stands around them ----


def manual(stage: Path, scratch: Path) -> None:
    """Man pages and completions, made from the programs' own command lines."""
    subprocess.run([sys.executable, str(ROOT / "docs/generate_manual.py"), str(scratch)], check=True)
    for page in sorted((scratch / "man8").iterdir()):
        compress(page.read_bytes(), stage / f"usr/share/man/man8/{page.name}.gz")
    for shell, place in (("bash", "bash-completion/completions"), ("zsh", "zsh/vendor-completions")):
        shutil.copytree(scratch / "completions" / shell, stage / "usr/share" / place)


def units(stage: Path) -> None:
    """As they stand, with the package's place of the programs."""
    place = stage / "lib/systemd/system"
    place.mkdir(parents=True)
    for unit in sorted((ROOT / "systemd").iterdir()):
        if unit.name.endswith(UNIT_KINDS):
            (place / unit.name).write_text(unit.read_text().replace(EXAMPLE_BIN, "/usr/bin"))


def documents(stage: Path) -> None:
    """The pages as they stand in the tree, so that their links hold; the licences of all that is packed."""
    place = stage / "usr/share/doc/shadowset"
    shutil.copytree(ROOT / "docs", place / "docs", ignore=shutil.ignore_patterns("generate_*.py", "__pycache__"))
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, place / name)
    (place / "copyright").write_text("\n".join(copyright_text()))
    compress(change_log().encode(), place / "changelog.gz")
    overrides = stage / "usr/share/lintian/overrides"
    overrides.mkdir(parents=True)
    shutil.copyfile(HERE / "lintian-overrides", overrides / "shadowset")


def change_log() -> str:
    """Debian's form; what changed stands in CHANGELOG.md, once."""
    date = formatdate(moment())
    return (
        f"shadowset ({__version__}) unstable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n"
        f" -- {MAINTAINER}  {date.replace('-0000', '+0000')}\n"
    )


def copyright_text() -> Iterator[str]:
    """In the machine-readable form."""
    yield "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    yield "Upstream-Name: Shadowset\n"
    yield f"Files: *\nCopyright: {gmtime(moment()).tm_year} the Shadowset developers\nLicense: Apache-2.0\n"
    for name in closure():
        told = importlib.metadata.metadata(name)
        author = told.get("Author") or told.get("Author-email") or f"the authors of {name}"
        short = (told.get("License-Expression") or told.get("License") or "see-its-dist-info").replace("\n", " ")
        yield f"Files: {LIBRARIES}/{name}*\nCopyright: {author}\nLicense: {name}-licence\n"
        yield f"License: {name}-licence\n {short}; its text lies in the .dist-info directory of {name}.\n"
    yield "License: Apache-2.0\n On Debian systems the text is /usr/share/common-licenses/Apache-2.0.\n"


def settings(stage: Path) -> None:
    """What administrators change belongs to dpkg here, which asks before it replaces anything."""
    for name in CONFIG_DIRECTORIES:
        (stage / "etc/shadowset" / name).mkdir(parents=True)
    (stage / "etc/shadowset/shadowsetd.toml").write_text(SETTINGS)


# ---- the package ----


def architecture() -> str:
    """Of the machine: a library and a module of ours are compiled."""
    done = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def control(stage: Path) -> None:
    """control, conffiles, checksums and the maintainer scripts."""
    place = stage / "DEBIAN"
    place.mkdir()
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(stage)}" for path in files]
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    told = {
        "@VERSION@": __version__,
        "@MAINTAINER@": MAINTAINER,
        "@ARCHITECTURE@": architecture(),
        "@SIZE@": str(size),
        "@PYTHON@": PYTHON,
        "@FROM@": f"{sys.version_info.major}.{sys.version_info.minor}",
        "@FOLLOWING@": f"{sys.version_info.major}.{sys.version_info.minor + 1}",
    }
    (place / "md5sums").write_text("\n".join(sums) + "\n")
    (place / "conffiles").write_text("/etc/shadowset/shadowsetd.toml\n")
    for name in ("control", "postinst", "prerm", "postrm"):
        text = (HERE / name).read_text()
        for word, value in told.items():
            text = text.replace(word, value)
        (place / name).write_text(text)
        (place / name).chmod(0o644 if name == "control" else 0o755)


def settle(stage: Path) -> None:
    """One time for everything, and no rights that the tree happened to have: the same tree makes the same package."""
    now = moment()
    os.environ["SOURCE_DATE_EPOCH"] = str(now)
    for path in stage.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or (path.stat().st_mode & 0o100 and path.parent.name in ("bin", "DEBIAN"))
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (now, now), follow_symlinks=False)


def moment() -> int:
    """The time of this version: what the environment says, or when the change log was last touched."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0")) or int((ROOT / "CHANGELOG.md").stat().st_mtime)


def compress(content: bytes, target: Path) -> None:
    """As gzip -9n."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content, 9, mtime=0))


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
