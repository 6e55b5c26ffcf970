"""Clients that we did not write work against live and shadow exports."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def test_nbdinfo_describes_the_live_export(provider: Any, tools: Any) -> None:
    tools("nbdinfo")
    export = json.loads(run("nbdinfo", "--no-content", "--json", provider.uri))["exports"][0]
    assert export["export-name"] == "vol"
    assert export["export-size"] == provider.size
    assert export["description"] == "live volume vol"
    assert export["can_multi_conn"] and export["can_fua"] and export["can_trim"] and not export["is_read_only"]
    names = json.loads(run("nbdinfo", "--list", "--no-content", "--json", f"nbd+unix:///?socket={provider.nbd}"))
    assert [entry["export-name"] for entry in names["exports"]] == ["vol"]


def test_nbdinfo_lists_copies_read_only(provider: Any, tools: Any) -> None:
    tools("nbdinfo")
    control = provider.control()
    copies = [control.snapshot(), control.snapshot()]
    exports = json.loads(
        run("nbdinfo", "--list", "--no-content", "--json", f"nbd+unix:///?socket={provider.export()}")
    )["exports"]
    assert [entry["export-name"] for entry in exports] == copies
    assert all(entry["is_read_only"] for entry in exports)


def test_nbdcopy_and_qemu_img_read_live_and_copy(provider: Any, random_image: bytes, workdir: str, tools: Any) -> None:
    tools("nbdcopy", "qemu-img")
    copy = provider.control().snapshot()
    shadow = f"nbd+unix:///{copy}?socket={provider.export()}"
    before = f"{workdir}/before.img"
    run("nbdcopy", provider.uri, before)
    assert Path(before).read_bytes() == random_image
    after = f"{workdir}/after.img"
    Path(after).write_bytes(os.urandom(provider.size))
    run("nbdcopy", after, provider.uri)
    assert "virtual size: 16 MiB" in run("qemu-img", "info", shadow)
    run("qemu-img", "compare", "-f", "raw", shadow, "-F", "raw", before)
    run("qemu-img", "compare", "-f", "raw", provider.uri, "-F", "raw", after)
    run("nbdcopy", shadow, f"{workdir}/copy.img")
    assert Path(f"{workdir}/copy.img").read_bytes() == random_image
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", shadow, f"{workdir}/copy.qcow2")
    run("qemu-img", "compare", shadow, f"{workdir}/copy.qcow2")


@pytest.mark.parametrize("pattern", ["randwrite", "write", "randrw"])
def test_fio_verifies_what_it_wrote(provider: Any, workdir: str, tools: Any, pattern: str) -> None:
    tools("fio")
    provider.control().snapshot()
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={provider.uri}", f"--rw={pattern}", "--bsrange=512-64k",
        "--iodepth=16", "--size=16M", "--verify=crc32c", "--verify_fatal=1", "--fsync=64", f"--aux-path={workdir}",
    )  # fmt: skip


def test_nbdsh_uses_every_request(provider: Any, nbd_module: Any) -> None:
    client = nbd_module.NBD()
    client.connect_uri(provider.uri)
    client.pwrite(b"A" * 65536, 0)
    copy = provider.control().snapshot()
    client.pwrite(b"B" * 1000, 100, nbd_module.CMD_FLAG_FUA)
    client.zero(20000, 16384)
    client.zero(5000, 40000, nbd_module.CMD_FLAG_NO_HOLE)
    client.trim(16384, 49152)
    client.flush()
    expected = bytearray(b"A" * 65536)
    expected[100:1100] = b"B" * 1000
    expected[16384:36384] = bytes(20000)
    expected[40000:45000] = bytes(5000)
    assert client.pread(16384, 0) == bytes(expected[:16384])
    assert client.pread(20000, 16384) == bytes(20000)
    shadow = nbd_module.NBD()
    shadow.connect_uri(f"nbd+unix:///{copy}?socket={provider.export()}")
    assert shadow.is_read_only()
    assert shadow.pread(65536, 0) == b"A" * 65536
    client.shutdown()
    shadow.shutdown()


def test_every_option_a_client_may_choose(provider: Any, nbd_module: Any) -> None:
    client = nbd_module.NBD()
    client.set_opt_mode(True)
    client.connect_unix(provider.nbd)
    found: list[str] = []
    client.opt_list(lambda name, description: found.append(name) or 0)
    assert found == ["vol"]
    client.set_export_name("nonesuch")
    with pytest.raises(nbd_module.Error):
        client.opt_info()
    client.set_export_name("vol")
    client.opt_info()
    assert client.get_size() == provider.size
    client.opt_abort()
    old = nbd_module.NBD()
    old.set_handshake_flags(0)
    old.connect_unix(provider.nbd)
    assert old.get_size() == provider.size
    old.shutdown()


def test_several_connections_see_one_volume(provider: Any, nbd_module: Any) -> None:
    clients = [nbd_module.NBD() for _ in range(4)]
    for client in clients:
        client.connect_uri(provider.uri)
        assert client.can_multi_conn()
    for number, client in enumerate(clients):
        client.pwrite(bytes([number]) * 4096, number * 4096)
    clients[0].flush()
    content = Path(provider.origin).read_bytes()[:16384]
    for client in clients:
        assert client.pread(16384, 0) == content == b"".join(bytes([number]) * 4096 for number in range(4))
        client.shutdown()


def test_large_requests_and_the_limits(provider: Any, nbd_module: Any) -> None:
    client = nbd_module.NBD()
    client.set_strict_mode(0)
    client.connect_uri(provider.uri)
    data = os.urandom(8 << 20)
    client.pwrite(data, 4 << 20)
    assert hashlib.sha256(client.pread(8 << 20, 4 << 20)).digest() == hashlib.sha256(data).digest()
    for call in (
        lambda: client.pread(512, provider.size),
        lambda: client.pwrite(b"x" * 512, provider.size - 511),
        lambda: client.zero(512, provider.size),
        lambda: client.cache(4096, provider.size),
    ):
        with pytest.raises(nbd_module.Error):
            call()
    assert client.pread(8, 0) == bytes(8)
    client.shutdown()
