"""The FUSE way with real servers, file systems and kills."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shadowset.nbd_provider.attach import bridge_state, loop, state
from shadowset.vss import provider_protocol as m

pytestmark = pytest.mark.host

MIB = 1 << 20


def test_attach_gives_a_block_device_of_the_same_size(place: Any) -> None:
    server = place.server(48 * MIB)
    answer = place.attach(server.socket)
    assert answer["via"] == "fuse" and answer["pid"] > 0
    device = answer["device"]
    assert (loop.device_size(device), loop.sector_size(device)) == (48 * MIB, 512)
    assert os.readlink(f"{place.links}/vol") == device
    saved = json.loads(Path(f"{place.runtime}/attach.json").read_text())
    assert (saved["device"], saved["via"], saved["pid"]) == (device, "fuse", answer["pid"])
    assert os.getsid(answer["pid"]) == answer["pid"]
    assert place.detach().returncode == 0
    assert place.leftovers() == [] and os.listdir(place.runtime) == [] and os.listdir(place.links) == []


def test_data_comes_through_in_both_directions(place: Any) -> None:
    server = place.server(16 * MIB, "qemu-nbd")
    device = place.attach(server.socket)["device"]
    content = random.Random(1).randbytes(16 * MIB)
    fd = os.open(device, os.O_RDWR)
    assert os.pwrite(fd, content, 0) == len(content)
    os.fsync(fd)
    os.close(fd)
    assert place.detach().returncode == 0
    assert Path(server.image).read_bytes() == content
    device = place.attach(server.socket)["device"]
    assert Path(device).read_bytes() == content


def test_attaching_again_gives_the_same_device(place: Any) -> None:
    server = place.server()
    first = place.attach(server.socket)
    assert place.attach(server.socket) == first
    auto = place.try_attach(server.socket, via="auto")
    assert json.loads(auto.stdout) == first
    other = place.try_attach(server.socket, "--export", "another")
    assert other.returncode == 1 and "detach it first" in other.stderr


def test_a_file_system_lives_through_the_death_of_the_server(place: Any, run: Any) -> None:
    server = place.server(256 * MIB)
    device = place.attach(server.socket)["device"]
    run(["mkfs.ext4", "-q", device])
    place.mount(device)
    sums: dict[str, str] = {}
    written: list[str] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def write() -> None:
        source = random.Random(2)
        try:
            for number in range(10**6):
                if stop.is_set():
                    return
                content = source.randbytes(source.randrange(1, 300_000))
                name = f"file{number % 200}"
                with open(f"{place.mount_point}/{name}", "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
                sums[name] = hashlib.sha256(content).hexdigest()
                written.append(name)
        except OSError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(1)
        server.kill()
        time.sleep(2)
        count = len(written)
        server.start()
        time.sleep(1.5)
    finally:
        stop.set()
        writer.join(30)
    assert not errors and not writer.is_alive()
    assert len(written) > count
    place.unmount()
    run(["fsck.ext4", "-fn", device])
    assert place.detach().returncode == 0
    run(["fsck.ext4", "-fn", server.image])
    place.mount(server.image, "-o", "loop,ro")
    for name, digest in sums.items():
        assert hashlib.sha256(Path(f"{place.mount_point}/{name}").read_bytes()).hexdigest() == digest, name
    place.unmount()


def test_every_acknowledged_write_is_there_after_many_kills(place: Any) -> None:
    server = place.server(16 * MIB)
    device = place.attach(server.socket)["device"]
    kills = 6
    expected = bytearray(16 * MIB)
    stop = threading.Event()

    def write() -> bool:
        source = random.Random(3)
        with open(device, "r+b", buffering=0) as file:
            while not stop.is_set():
                length = source.choice([4096, 65536, 3 * MIB])
                offset = source.randrange(0, len(expected) - length) // 4096 * 4096
                content = source.randbytes(length)
                assert os.pwrite(file.fileno(), content, offset) == length
                os.fsync(file.fileno())
                expected[offset : offset + length] = content
        return True

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        for _ in range(kills):
            time.sleep(0.15)
            server.kill()
            server.start()
        stop.set()
        assert writer.result(30)
    assert Path(f"{place.runtime}/bridge.log").read_text().count("connected again") >= kills
    assert Path(server.image).read_bytes() == bytes(expected)


def test_detach_refuses_while_mounted_and_names_the_mount_point(place: Any, run: Any) -> None:
    server = place.server()
    device = place.attach(server.socket)["device"]
    run(["mkfs.ext4", "-q", device])
    place.mount(device)
    for options in ([], ["--force"]):
        refused = place.detach(*options)
        assert refused.returncode == 1
        assert place.mount_point in refused.stderr and device in refused.stderr
        assert refused.stderr.count("\n") == 1
    Path(f"{place.mount_point}/still").write_text("alive")
    place.unmount()
    assert place.detach().returncode == 0
    assert place.leftovers() == []


def test_detach_refuses_what_is_held_without_a_mount(place: Any) -> None:
    device = place.attach(place.server().socket)["device"]
    fd = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        refused = place.detach()
    finally:
        os.close(fd)
    assert refused.returncode == 1 and "in use" in refused.stderr
    assert place.detach().returncode == 0


def test_trim_makes_the_image_sparse(place: Any, run: Any) -> None:
    server = place.server(128 * MIB)
    device = place.attach(server.socket)["device"]
    run(["mkfs.ext4", "-q", "-E", "nodiscard", device])
    place.mount(device)
    path = Path(f"{place.mount_point}/big")
    path.write_bytes(os.urandom(64 * MIB))
    os.sync()
    full = os.stat(server.image).st_blocks * 512
    path.unlink()
    os.sync()
    run(["fstrim", place.mount_point])
    place.unmount()
    assert full > 64 * MIB
    assert os.stat(server.image).st_blocks * 512 < full - 60 * MIB


def test_discarded_and_zeroed_ranges_read_as_zeroes(place: Any, run: Any) -> None:
    server = place.server(8 * MIB)
    device = place.attach(server.socket)["device"]
    Path(device).write_bytes(b"\xaa" * (8 * MIB))
    os.sync()
    run(["blkdiscard", "-o", str(MIB), "-l", str(MIB), device])
    run(["blkdiscard", "-z", "-o", str(4 * MIB), "-l", str(MIB), device])
    content = Path(server.image).read_bytes()
    zeroes, full = bytes(MIB), b"\xaa" * MIB
    assert [content[at * MIB : (at + 1) * MIB] for at in range(8)] == [
        full, zeroes, full, full, zeroes, full, full, full,
    ]  # fmt: skip


def test_a_discard_of_more_than_nbd_can_say_at_once(place: Any, run: Any) -> None:
    server = place.server(6 << 30)
    device = place.attach(server.socket)["device"]
    with open(server.image, "r+b") as file:
        file.seek(5 << 30)
        file.write(b"x" * MIB)
    run(["blkdiscard", device])
    with open(server.image, "rb") as file:
        file.seek(5 << 30)
        assert file.read(MIB) == bytes(MIB)


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_after_the_dead_time_requests_fail_and_later_ones_work_again(place: Any, how: str) -> None:
    server = place.server(8 * MIB)
    device = place.attach(server.socket, "--dead-time", "1")["device"]
    fd = os.open(device, os.O_RDWR | os.O_SYNC)
    os.pwrite(fd, b"a" * 4096, 0)
    server.signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(OSError) as failure:
        os.pwrite(fd, b"b" * 4096, 0)
    assert failure.value.errno == errno.EIO
    assert time.monotonic() - started > 0.9
    if how == "killed":
        server.kill()
        server.start()
    else:
        server.signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while True:
        try:
            os.pwrite(fd, b"c" * 4096, 4096)
            break
        except OSError:
            assert time.monotonic() < deadline, "writes do not work again"
            time.sleep(0.1)
    os.close(fd)
    assert Path(server.image).read_bytes()[4096:8192] == b"c" * 4096


def test_no_server_wrong_export_and_hanging_server_leave_nothing(place: Any) -> None:
    absent = place.try_attach(f"{place.directory}/none.sock")
    assert absent.returncode == 1 and "start the provider" in absent.stderr
    server = place.server(8 * MIB, "qemu-nbd")
    wrong = place.try_attach(server.socket, "--export", "other")
    assert wrong.returncode == 1 and '"other"' in wrong.stderr and "no export of that name" in wrong.stderr
    server.signal(signal.SIGSTOP)
    hanging = place.try_attach(server.socket)
    assert hanging.returncode == 1 and "did not answer within 10 s" in hanging.stderr
    for done in (absent, wrong, hanging):
        assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert place.leftovers() == [] and not os.path.exists(place.runtime)


def test_an_export_that_cannot_be_a_device_is_refused(place: Any) -> None:
    server = place.server(8 * MIB + 100)
    refused = place.try_attach(server.socket)
    assert refused.returncode == 1 and "cannot be a block device" in refused.stderr
    assert place.leftovers() == []


def kill_both(place: Any) -> None:
    """Bridge and keeper, so that neither starts the other one again."""
    status = bridge_state.load_status(place.runtime)
    os.kill(status.keeper, signal.SIGSTOP)
    os.kill(status.bridge, signal.SIGKILL)
    os.kill(status.keeper, signal.SIGKILL)
    while bridge_state.load_status(place.runtime).runs:
        time.sleep(0.01)


def test_what_a_dead_bridge_leaves_is_removed_by_the_next_attach(place: Any) -> None:
    server = place.server(8 * MIB)
    first = place.attach(server.socket)
    kill_both(place)
    second = place.attach(server.socket)
    assert second["pid"] != first["pid"]
    Path(second["device"]).write_bytes(b"z" * 4096)
    assert len(loop.devices_on(f"{place.runtime}/bridge/disk")) == 1
    assert place.detach().returncode == 0


def test_a_dead_bridge_under_a_mounted_file_system_is_reported(place: Any, run: Any) -> None:
    server = place.server()
    answer = place.attach(server.socket)
    run(["mkfs.ext4", "-q", answer["device"]])
    place.mount(answer["device"])
    kill_both(place)
    refused = place.try_attach(server.socket)
    assert refused.returncode == 1 and place.mount_point in refused.stderr
    place.unmount()
    place.attach(server.socket)


def test_leftovers_without_state_and_state_of_an_earlier_boot(place: Any) -> None:
    server = place.server(8 * MIB)
    first = place.attach(server.socket)
    os.unlink(f"{place.runtime}/attach.json")
    second = place.attach(server.socket)
    assert second["pid"] != first["pid"]
    saved = state.load(place.runtime)
    assert saved is not None
    saved.boot = "an earlier one"
    state.save(place.runtime, saved)
    third = place.attach(server.socket)
    assert third["pid"] != second["pid"]
    assert place.detach().returncode == 0


def test_a_device_whose_mount_someone_took_is_still_detached(place: Any, run: Any) -> None:
    server = place.server(8 * MIB)
    answer = place.attach(server.socket)
    run(["umount", "--lazy", f"{place.runtime}/bridge"])
    assert loop.backing_file(answer["device"]) != f"{place.runtime}/bridge/disk"
    assert place.detach().returncode == 0
    assert loop.backing_file(answer["device"]) == "" and place.leftovers() == []


def test_detach_without_a_server_refuses_and_gives_up_when_forced(place: Any) -> None:
    server = place.server(8 * MIB)
    device = place.attach(server.socket)["device"]
    server.kill()
    with open(device, "r+b", buffering=0) as file:
        file.write(b"d" * 8192)
        refused = place.detach()
        assert refused.returncode == 1 and "--force" in refused.stderr
        closer = threading.Timer(1, lambda: place.detach("--force"))
        closer.start()
    closer.join()
    assert place.detach("--force").returncode == 0
    assert place.leftovers() == []


def test_signals_do_not_end_the_bridge(place: Any) -> None:
    answer = place.attach(place.server(8 * MIB).socket)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(answer["pid"], number)
        os.kill(bridge_state.load_status(place.runtime).bridge, number)
    Path(answer["device"]).write_bytes(b"z" * 4096)
    assert place.attach(f"{place.directory}/nbd.sock") == answer


def test_reconnect_needs_an_attached_volume(place: Any) -> None:
    server = place.server(8 * MIB)
    place.attach(server.socket)
    assert place.run("reconnect", "vol", "--runtime", place.runtime).returncode == 0
    assert place.detach().returncode == 0
    refused = place.run("reconnect", "vol", "--runtime", place.runtime)
    assert refused.returncode == 1 and "attach it" in refused.stderr


def test_bad_names_and_kernels_without_nbd(place: Any) -> None:
    refused = place.run("attach", "../x", "--nbd", "/x", "--runtime", place.runtime)
    assert refused.returncode == 1 and "cannot name a volume" in refused.stderr
    if os.path.exists("/sys/module/nbd"):
        pytest.skip("this kernel has nbd")
    refused = place.try_attach("/x", via="nbd")
    assert refused.returncode == 1 and "--via fuse" in refused.stderr


def test_detaching_what_is_not_attached_is_no_error(place: Any) -> None:
    assert place.detach().returncode == 0


def test_many_attach_at_once_and_share_one_device(place: Any) -> None:
    server = place.server(8 * MIB)
    command = ["attach", "vol", "--nbd", server.socket, "--via", "fuse", "--runtime", place.runtime]
    results: list[subprocess.CompletedProcess[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(place.run(*command, "--links", place.links))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {done.returncode for done in results} == {0}
    assert len({done.stdout for done in results}) == 1


def test_the_real_provider_is_attached_killed_and_waited_for(place: Any, provider: Any, run: Any) -> None:
    device = place.attach(provider.nbd)["device"]
    run(["mkfs.ext4", "-q", device])
    place.mount(device)
    path = Path(f"{place.mount_point}/file")
    path.write_bytes(b"before")
    os.sync()
    provider.kill()
    threading.Timer(1, provider.start).start()
    with open(path, "ab") as file:
        file.write(b" and after")
        file.flush()
        os.fsync(file.fileno())
    place.unmount()
    run(["fsck.ext4", "-fn", device])
    assert place.detach().returncode == 0
    place.mount(provider.origin, "-o", "loop,ro,noload")
    assert path.read_bytes() == b"before and after"
    place.unmount()


def test_a_device_goes_on_when_the_volume_grew_and_its_provider_restarted(place: Any, provider: Any) -> None:
    device = place.attach(provider.nbd)["device"]
    os.truncate(provider.origin, provider.size + 4 * MIB)
    assert provider.control().value(m.Resize)["size"] == provider.size + 4 * MIB
    provider.kill()
    provider.start()
    assert loop.device_size(device) == provider.size
    with open(device, "r+b") as file:
        file.seek(-MIB, os.SEEK_END)
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
    assert place.detach().returncode == 0
    assert Path(provider.origin).read_bytes()[provider.size - MIB :] == b"x" * MIB + bytes(4 * MIB)
    assert loop.device_size(place.attach(provider.nbd)["device"]) == provider.size + 4 * MIB
    assert place.detach().returncode == 0


def grow(provider: Any, to: int) -> None:
    os.truncate(provider.origin, to)
    assert provider.control().value(m.Resize)["size"] == to


def test_a_device_takes_in_what_its_volume_has_gained_while_mounted(place: Any, provider: Any, run: Any) -> None:
    device = place.attach(provider.nbd)["device"]
    run(["mkfs.ext4", "-q", device])
    place.mount(device)
    before = place.resize()
    assert before.returncode == 0 and json.loads(before.stdout) == {"device": device, "size": provider.size}
    grow(provider, provider.size + 32 * MIB)
    assert loop.device_size(device) == provider.size
    for _ in range(2):
        done = place.resize()
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"device": device, "size": provider.size + 32 * MIB}
    assert loop.device_size(device) == provider.size + 32 * MIB
    place.unmount()  # growing it mounted needs CAP_SYS_RESOURCE, which containers lack; the kernel lane does
    run(["e2fsck", "-fp", device])
    run(["resize2fs", device])
    place.mount(device)
    content = os.urandom(provider.size)
    Path(f"{place.mount_point}/more than there was").write_bytes(content)
    os.sync()
    provider.kill()
    provider.start()
    assert Path(f"{place.mount_point}/more than there was").read_bytes() == content
    place.unmount()
    run(["fsck.ext4", "-fn", device])
    assert place.detach().returncode == 0


def test_a_device_grows_no_further_than_its_volume(place: Any, provider: Any) -> None:
    device = place.attach(provider.nbd)["device"]
    for size in (0, provider.size - 4096, provider.size + 4096):
        with pytest.raises(PermissionError):
            os.truncate(f"{place.runtime}/bridge/disk", size)
    os.truncate(f"{place.runtime}/bridge/disk", provider.size)
    assert loop.device_size(device) == provider.size == os.stat(f"{place.runtime}/bridge/disk").st_size
    provider.kill()
    refused = place.resize()
    assert refused.returncode == 1 and "start the provider" in refused.stderr and "Traceback" not in refused.stderr
    os.truncate(provider.origin, provider.size + MIB)
    provider.start()
    assert json.loads(place.resize().stdout)["size"] == provider.size + MIB == loop.device_size(device)
    assert place.detach().returncode == 0
    refused = place.resize()
    assert refused.returncode == 1 and "attach it" in refused.stderr


def test_a_device_that_would_have_to_shrink_is_refused(place: Any) -> None:
    server = place.server(16 * MIB)
    device = place.attach(server.socket)["device"]
    os.truncate(server.image, 8 * MIB)
    refused = place.resize()
    assert refused.returncode == 1 and f"{8 * MIB} bytes now" in refused.stderr and device in refused.stderr
    os.truncate(server.image, 16 * MIB)
    assert place.resize().returncode == 0
    assert place.detach().returncode == 0
