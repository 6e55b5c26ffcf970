"""Boots user-mode-linux with the host's tree as its root, runs one Python script in it, and brings back what it said.

For kernel features that the host's own kernel lacks, and for states (a crash, a wedged device) that a host should not
be put into. The root is read-only; ``/run``, ``/tmp``, ``/mnt`` and ``/dev/shm`` are fresh memory file systems.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
_START = "@@ the script starts @@"
_END = "@@ the script ended with status "
_INIT = """#!/bin/sh
exec 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /run
for place in {kept}; do mkdir -p /run/kept$place && mount --bind $place /run/kept$place; done
for place in /mnt /dev/shm; do mount -t tmpfs tmpfs $place; done
if [ -d /lib/modules ]; then mount --bind {modules} /lib/modules; fi
mkdir -p /run/modules/lib
ln -s {modules} /run/modules/lib/modules
ip link set lo up
for module in {wanted}; do modprobe -d /run/modules $module || echo "cannot load $module"; done
script={script}
case $script in /tmp/*) cp $script /run/script.py; script=/run/script.py ;; esac
mount -t tmpfs tmpfs /tmp
for place in {kept}; do mkdir -p $place && mount --bind /run/kept$place $place; done
cd /mnt
echo "{start}"
{python} $script {arguments}
echo "{end}$? @@"
echo o > /proc/sysrq-trigger
sleep 60
"""


@dataclass(frozen=True)
class Result:
    """How a script ended in the guest. ``status`` is None when it did not end; ``console`` has the kernel's lines."""

    status: int | None
    output: str
    console: str


def missing() -> str:
    """What the host lacks for this, or "" when nothing."""
    for program in (KERNEL, "modprobe", "ip"):
        if shutil.which(program) is None:
            return f"not installed: {program}"
    if not MODULES.is_dir():
        return f"no modules in {MODULES}"
    return "" if os.geteuid() == 0 else "needs root"


def run(
    script: str | Path,
    *arguments: str,
    modules: tuple[str, ...] = (),
    memory: str = "1G",
    timeout: float = 150,
    disks: tuple[int, ...] = (),
) -> Result:
    """Runs ``script`` with this Python, as root, in a fresh guest; ends by itself or after ``timeout`` seconds.

    ``disks`` are the sizes in bytes of empty disks, ``/dev/ubda`` and so on, that do not lie in the guest's memory.
    """
    with tempfile.TemporaryDirectory(prefix="ss-uml-", dir="/tmp") as directory:
        init = Path(directory) / "init"
        init.write_text(_init_text(Path(script).resolve(), arguments, modules))
        init.chmod(0o755)
        with tempfile.TemporaryDirectory(prefix="ss-uml-disks-", dir="/var/tmp") as place:
            images = [_image(f"{place}/{number}", size) for number, size in enumerate(disks)]
            console = _boot(directory, init, memory, timeout, images)
    return _result(console)


def _image(path: str, size: int) -> str:
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def _init_text(script: Path, arguments: tuple[str, ...], modules: tuple[str, ...]) -> str:
    return _INIT.format(
        modules=MODULES,
        wanted=shlex.join(modules),
        kept=shlex.join(_kept()),
        script=shlex.quote(str(script)),
        start=_START,
        end=_END,
        python=shlex.quote(sys.executable),
        arguments=shlex.join(arguments),
    )


def _kept() -> list[str]:
    """The checkout and the interpreter, where one of the guest's own memory file systems would cover them."""
    places = {str(Path(__file__).resolve().parents[2]), sys.prefix}
    return sorted(place for place in places if place.startswith(("/tmp/", "/mnt/")))


def fixed_addresses() -> list[str]:
    """What to run the kernel with, so that it has the same memory each time: by up to a seventh less with random
    addresses. Nothing where the host forbids it, as some containers do."""
    command = ["setarch", "-R"]
    return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else []


def _boot(directory: str, init: Path, memory: str, timeout: float, disks: list[str]) -> str:
    command = [*fixed_addresses(), KERNEL, f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"]
    command += [f"init={init}"]
    command += ["con=null", "con0=fd:0,fd:1", "quiet", f"uml_dir={directory}", "panic=1"]
    command += [f"ubd{number}={path}" for number, path in enumerate(disks)]
    log = Path(directory) / "console"
    with log.open("wb") as output:
        guest = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": directory},
        )
        try:
            guest.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(guest)
    return log.read_text(errors="replace").replace("\r", "")


def _end(guest: subprocess.Popen[bytes]) -> None:
    """The guest's processes are threads and children of one process group, which is ours alone."""
    try:
        os.killpg(guest.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    guest.wait(10)


def _result(console: str) -> Result:
    _, _, rest = console.partition(_START)
    output, ended, status = rest.partition(_END)
    return Result(int(status.split()[0]) if ended else None, output.strip("\n"), console)
