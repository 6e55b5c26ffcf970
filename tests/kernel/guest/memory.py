"""Inside the guest, which has next to no memory: dirty pages of an nbd device whose provider runs beside their writer.

Arguments: MiB to write, how many rounds, and how many MiB may be dirty (0: as many as the kernel allows by itself).
Each round makes a copy, writes over all that the last round wrote without a sync, reads it back from the disk, detaches
and attaches. Nobody here is spared by the kernel when memory ends: the provider is the one process that asks for it.
This process imports next to nothing, since it takes part of the memory. What the copies show is looked at when the
provider has ended.
"""

import os
import socket
import sys
import time
import zlib

PLACE, RUNTIME = "/mnt/fs", "/run/one"
NBD, CONTROL, STORAGE, ORIGIN = "/run/one.nbd", "/run/one.control", "/mnt/below/storage", "/dev/ubda"
PIECE, STEP = 1 << 20, 1 << 16


def show_digest(copy: str) -> None:
    """Prints that of a copy; with our packages, so in a process of its own."""
    from uuid import UUID

    from shadowset.nbd_provider.store.reader import CopyReader

    reader, value = CopyReader(STORAGE, ORIGIN, UUID(copy)), 0
    for offset in range(0, reader.size, PIECE):
        value = zlib.crc32(reader.read(offset, PIECE), value)
    print(value)


def spawn(*command: str, **more: object) -> int:
    return os.posix_spawnp(command[0], command, os.environ, **more)  # type: ignore[arg-type]


def run(*command: str) -> int:
    """The most memory that it had at once, in KiB."""
    _, status, usage = os.wait4(spawn(*command), 0)
    assert os.waitstatus_to_exitcode(status) == 0, command
    return int(usage.ru_maxrss)


def output(*command: str) -> str:
    ends = os.pipe()
    pid = spawn(*command, file_actions=[(os.POSIX_SPAWN_DUP2, ends[1], 1)])
    os.close(ends[1])
    with open(ends[0], encoding="ascii") as file:
        text = file.read().strip()
    assert os.waitpid(pid, 0)[1] == 0, command
    return text


def counters() -> dict[str, int]:
    with open("/proc/vmstat", encoding="ascii") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


def table(path: str) -> dict[str, int]:
    """A file of lines like ``MemTotal: 100 kB``."""
    with open(path, encoding="ascii", errors="replace") as file:
        rows = [line.split() for line in file]
    return {row[0][:-1]: int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def mib(kibibytes: float) -> str:
    return f"{kibibytes / 1024:.1f}"


def set_kernel(name: str, value: int) -> None:
    with open(f"/proc/sys/vm/{name}", "w", encoding="ascii") as file:
        file.write(str(value))


def start() -> int:
    log = os.open("/run/provider.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    command = [sys.executable, "-m", "shadowset.nbd_provider.main", "one", "--origin", ORIGIN, "--storage", STORAGE]
    command += ["--nbd", NBD, "--control", CONTROL, "--losses", "/run/losses"]
    provider = spawn(*command, file_actions=[(os.POSIX_SPAWN_DUP2, log, 2)])
    while not os.path.exists(CONTROL):
        assert os.waitpid(provider, os.WNOHANG)[0] == 0, "the provider has ended"
        time.sleep(0.1)
    return provider


def attach(verb: str, *options: str) -> int:
    command = [sys.executable, "-m", "shadowset.nbd_provider.attach.main", verb, "one", *options]
    return run(*command, "--runtime", RUNTIME)


def pattern(number: int) -> bytes:
    return (b"%15d\n" % number) * (STEP // 16)


def write(first: int, count: int) -> int:
    """Without a sync, as fast as the kernel takes it; returns the most pages that were dirty at once."""
    most = 0
    with open(f"{PLACE}/file", "r+b" if first else "wb", buffering=0) as file:
        for number in range(count * PIECE // STEP):
            file.write(pattern(first + number))
            now = counters()
            most = max(most, now["nr_dirty"] + now["nr_writeback"])
        os.fsync(file.fileno())
    return most


def read_back(first: int, count: int) -> None:
    set_kernel("drop_caches", 3)
    with open(f"{PLACE}/file", "rb", buffering=0) as file:
        for number in range(count * PIECE // STEP):
            assert file.read(STEP) == pattern(first + number), number


def who_has_what(provider: int) -> str:
    """In MiB, now."""
    all_of_it, its, own = table("/proc/meminfo"), table(f"/proc/{provider}/status"), table("/proc/self/status")
    kernel = all_of_it["Slab"] + all_of_it["KernelStack"] + all_of_it["PageTables"]
    return (
        f"of {mib(all_of_it['MemTotal'])} MiB: kernel's tables {mib(kernel)}, provider {mib(its['RssAnon'])} and "
        f"{mib(its['RssFile'])} of programs, the test's script {mib(own['RssAnon'])}, "
        f"page cache {mib(all_of_it['Cached'] + all_of_it['Buffers'])}, free {mib(all_of_it['MemFree'])}"
    )


def packed(value: object) -> bytes:
    """As MessagePack has it; enough of it for short messages."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, str):
        return bytes((0xD9, len(value))) + value.encode()
    assert isinstance(value, dict)
    return bytes((0x80 | len(value),)) + b"".join(packed(key) + packed(of_it) for key, of_it in value.items())


def control(*calls: dict[str, object]) -> None:
    """All over one connection, as a copy asks for it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(CONTROL)
        for number, call in enumerate(calls):
            frame = packed(call | {"seq": number})
            sock.sendall(len(frame).to_bytes(4, "big") + frame)
            answer = sock.recv(65536)
            while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4], "big"):
                answer += sock.recv(65536)
            assert b"done" in answer, answer


def cut(copy: str) -> int:
    """A persistent copy, and the digest of what the origin holds then."""
    run("fsfreeze", "-f", PLACE)
    commit = {"kind": "commit", "copy_id": copy, "set_id": copy, "created_ns": time.time_ns(), "persistent": True}
    control({"kind": "hold"}, commit, {"kind": "release"})
    value = 0
    with open(ORIGIN, "rb", buffering=0) as file:
        while piece := file.read(STEP):
            value = zlib.crc32(piece, value)
    control({"kind": "finish", "copy_id": copy})
    run("fsfreeze", "-u", PLACE)
    return value


def play_round(provider: int, number: int, count: int) -> tuple[float, float, float]:
    """Seconds of the writing, the most MiB that were dirty, and the provider's own MiB."""
    started = time.monotonic()
    most = write(number * count, count)
    seconds = time.monotonic() - started
    print(f"figure: round {number + 1}: {who_has_what(provider)}", flush=True)
    read_back(number * count, count)
    return seconds, most / 256, table(f"/proc/{provider}/status")["RssAnon"] / 1024


def everything() -> None:
    count, rounds, dirty = (int(word) for word in sys.argv[1:])
    set_kernel("watermark_boost_factor", 0)  # else it keeps 4 MiB for itself at times, and there is none to keep
    if dirty:
        set_kernel("dirty_bytes", dirty * PIECE)
        set_kernel("dirty_background_bytes", dirty * PIECE // 2)
    os.mkdir("/mnt/below")
    os.mkdir(PLACE)
    run("mkfs.ext4", "-q", "/dev/ubdb")
    run("mount", "/dev/ubdb", "/mnt/below")
    provider = start()
    peaks = [attach("attach", "--nbd", NBD, "--via", "nbd")]
    run("mkfs.ext4", "-q", "/dev/nbd0")
    times, copies = [], {}
    for number in range(rounds):
        run("mount", "/dev/nbd0", PLACE)
        copy = f"00000000-0000-4000-8000-{number + 1:012}"
        copies[copy] = cut(copy)
        times.append(play_round(provider, number, count))
        run("umount", PLACE)
        peaks.append(attach("detach"))
        peaks.append(attach("attach", "--nbd", NBD, "--via", "nbd"))
    run("fsck.ext4", "-f", "-n", "/dev/nbd0")
    peaks.append(attach("detach"))
    os.kill(provider, 15)
    assert os.waitpid(provider, 0)[1] == 0
    grown = times[-1][2] - times[0][2]
    assert grown < 2, f"the provider grew by {grown:.1f} MiB"
    for copy, value in copies.items():
        assert output(sys.executable, __file__, "digest", copy) == str(value), f"copy {copy} is not what it was"
    print(f"figure: {rounds} x {count} MiB written, the slowest in {max(each[0] for each in times):.1f} s;")
    print(f"figure: the provider grew by {grown:.1f} MiB from the first copy to the last")
    print(f"figure: {max(each[1] for each in times):.1f} MiB dirty at once, shadowset-attach {mib(max(peaks))} MiB")
    print("all is well", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "digest":
        show_digest(sys.argv[2])
    else:  # once more, compiled and without the site's modules
        os.environ["PYTHONPATH"] = os.path.dirname(sys.argv[0])
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import memory; memory.everything()", *sys.argv[1:]])
