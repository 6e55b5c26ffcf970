"""Inside the guest, which has next to no memory: dirty pages of an nbd device whose provider runs beside their writer.

Arguments: MiB to leave to everybody, what the kernel allocates included, and MiB to write. ``shadowset-attach`` needs
more for a moment, so what is over is taken away when it has done its work; without swap nobody gets that back. Of what
is left, the kernel, the provider and this program take most; so little is imported here.
"""

import mmap
import os
import subprocess
import sys
import time

PLACE, RUNTIME = "/mnt/fs", "/run/one"
NBD, CONTROL = "/run/one.nbd", "/run/one.control"
PIECE = 1 << 20


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def counters() -> dict[str, int]:
    with open("/proc/vmstat", encoding="ascii") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def megabytes(pages: int) -> str:
    return f"{pages * 4096 / PIECE:.1f} MiB"


def memory(word: str, pid: str = "") -> int:
    """A line of /proc/meminfo, or of a process's status, in KiB."""
    with open(f"/proc/{pid}/status" if pid else "/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{word}:"))


def start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "one", "--origin", "/dev/ubda"]
    command += ["--storage", "/mnt/below/storage", "--nbd", NBD, "--control", CONTROL, "--losses", "/run/losses"]
    with open("/run/provider.log", "wb") as log:
        provider = subprocess.Popen(command, stderr=log)
    while not os.path.exists(CONTROL):
        assert provider.poll() is None, "the provider has ended"
        time.sleep(0.1)
    return provider


def attach(*arguments: str) -> None:
    run(
        sys.executable,
        "-m",
        "shadowset.nbd_provider.attach.main",
        arguments[0],
        "one",
        *arguments[1:],
        "--runtime",
        RUNTIME,
    )


def pattern(number: int) -> bytes:
    return (b"%15d\n" % number) * (PIECE // 16)


def write(count: int) -> int:
    """Without a sync, as fast as the kernel takes it; returns the most pages that were dirty at once."""
    most = 0
    with open(f"{PLACE}/file", "wb", buffering=0) as file:
        for number in range(count):
            file.write(pattern(number))
            now = counters()
            most = max(most, now["nr_dirty"] + now["nr_writeback"])
        os.fsync(file.fileno())
    return most


def take_away(left: int) -> mmap.mmap:
    """All memory but ``left`` MiB."""
    size = memory("MemTotal") * 1024 - left * PIECE
    taken = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, mmap.PAGESIZE):
        taken[page] = 1
    return taken


def tell(provider: int) -> None:
    words = ", ".join(f"{word} {memory(word) >> 10} MiB" for word in ("MemAvailable", "Slab", "Mlocked", "Dirty"))
    print(f"{words}, provider {memory('VmRSS', str(provider)) >> 10} MiB", flush=True)


def everything() -> None:
    left, count = int(sys.argv[1]), int(sys.argv[2])
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("-1000")  # what was taken away counts as ours
    os.mkdir("/mnt/below")
    os.mkdir(PLACE)
    run("mkfs.ext4", "-q", "/dev/ubdb")
    run("mount", "/dev/ubdb", "/mnt/below")
    provider = start()
    attach("attach", "--nbd", NBD, "--via", "nbd")
    run("mkfs.ext4", "-q", "/dev/nbd0")
    run("mount", "/dev/nbd0", PLACE)
    taken = take_away(left)
    tell(provider.pid)
    before = counters()
    started = time.monotonic()
    most = write(count)
    seconds = time.monotonic() - started
    tell(provider.pid)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")
    with open(f"{PLACE}/file", "rb", buffering=0) as file:
        for number in range(count):
            assert file.read(PIECE) == pattern(number), number
    dirtied = counters()["nr_dirtied"] - before["nr_dirtied"]
    taken.close()
    run("umount", PLACE)
    run("fsck.ext4", "-f", "-n", "/dev/nbd0")
    attach("detach")
    provider.terminate()
    assert provider.wait() == 0
    print(f"figure: {count} MiB written in {seconds:.1f} s with {left} MiB of memory, {dirtied} pages dirtied,")
    print(f"figure: {megabytes(most)} of them at once", flush=True)


if __name__ == "__main__":
    everything()
    print("all is well")
