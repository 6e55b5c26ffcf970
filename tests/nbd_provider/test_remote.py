"""A backup host pulls shadow copies over TLS, and gets those that its name may read."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowset.nbd_provider.remote import RemoteDirectory, load
from shadowset.vss.codes import VssError
from shadowset.vss.objects import DeviceObject

CLIENTS = {"alice": "alice.example.org", "bob": "bob.example.org", "mallory": "mallory.example.org"}
RULES = """
[[client]]
name = "alice"
volumes = ["data"]

[[client]]
name = "bob.example.org"
copies = ["{first}"]

[[client]]
name = "nobody"
volumes = ["data", "secret"]
"""


class Remote:
    """Two copies of a volume ``data``, one of which stands for volume ``secret`` as well, served over TLS."""

    def __init__(self, provider: Any, certificates: Any, content: bytes) -> None:
        self.directory, self.content = provider.directory, content
        self.keys = f"{self.directory}/keys"
        self.config, self.objects = f"{self.directory}/remote.toml", f"{self.directory}/objects"
        for name in ("", "server", *CLIENTS):
            os.mkdir(f"{self.keys}/{name}")
        certificates.authority(self.keys, "ca")
        self._issue(certificates, "server", "server", "serverAuth", "localhost")
        for name, dns in CLIENTS.items():
            self._issue(certificates, name, "client", "clientAuth", dns)
        os.mkdir(self.objects)
        self.first, self.second = provider.control().snapshot(), provider.control().snapshot()
        for number, (copy, volume) in enumerate(((self.first, "data"), (self.second, "data"), (self.first, "secret"))):
            self._describe(provider, number + 1, copy, volume)
        self.write(f'listen = "127.0.0.1:0"\ntls-certificates = "{self.keys}/server"\n', RULES)
        self.process: subprocess.Popen[bytes] | None = None

    def _issue(self, certificates: Any, name: str, kind: str, usage: str, dns: str) -> None:
        certificates.issue(self.keys, "ca", name, usage, dns)
        for part in ("cert", "key"):
            Path(f"{self.keys}/{name}/{kind}-{part}.pem").write_bytes(
                Path(f"{self.keys}/{name}-{part}.pem").read_bytes()
            )
        Path(f"{self.keys}/{name}/ca-cert.pem").write_bytes(Path(f"{self.keys}/ca-cert.pem").read_bytes())

    def _describe(self, provider: Any, number: int, copy: str, volume: str) -> None:
        shown = copy if volume == "data" else "00000000-0000-0000-0000-00000000000" + str(number)
        value = DeviceObject(
            device_number=number, snapshot_id=shown, snapshot_set_id=copy, copy_id=copy, volume=volume,
            storage=provider.storage, origin=provider.origin, size=provider.size, created_ns=1, attributes=0,
            originating_machine="",
        )  # fmt: skip
        Path(f"{self.objects}/{number}.json").write_bytes(msgspec.json.encode(value))

    def write(self, head: str, rules: str) -> None:
        Path(self.config).write_text(head + rules.format(first=self.first))

    def command(self) -> list[str]:
        return [sys.executable, "-m", "shadowset.nbd_provider.remote", self.config, "--objects", self.objects]

    def start(self) -> None:
        log = f"{self.directory}/remote.log"
        with open(log, "wb") as file:
            self.process = subprocess.Popen(self.command(), stderr=file)
        deadline = time.monotonic() + 30
        while not (found := re.search(r"served on 127\.0\.0\.1:(\d+)", Path(log).read_text())):
            assert self.process.poll() is None and time.monotonic() < deadline, Path(log).read_text()
            time.sleep(0.02)
        self.port = int(found[1])

    def uri(self, who: str, export: str = "") -> str:
        return f"nbds://localhost:{self.port}/{export}?tls-certificates={self.keys}/{who}"

    def info(self, who: str, export: str = "", *options: str) -> subprocess.CompletedProcess[str]:
        """Its standard error has what the server said."""
        command = ["nbdinfo", *options, self.uri(who, export)]
        told = {**os.environ, "LIBNBD_DEBUG": "1"}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=told)

    def listed(self, who: str) -> list[str]:
        done = self.info(who, "", "--json", "--list")
        assert done.returncode == 0, done.stderr
        return [each["export-name"] for each in json.loads(done.stdout)["exports"]]

    def close(self) -> None:
        if self.process:
            self.process.terminate()
            assert self.process.wait(30) == 0
            assert "Traceback" not in Path(f"{self.directory}/remote.log").read_text()


@pytest.fixture
def remote(provider: Any, certificates: Any, random_image: bytes, tools: Any) -> Iterator[Remote]:
    tools("nbdinfo", "nbdcopy")
    made = Remote(provider, certificates, random_image)
    yield made
    made.close()


def test_each_client_sees_the_copies_of_its_name(remote: Remote, tools: Any) -> None:
    remote.start()
    assert remote.listed("alice") == [remote.first, remote.second]
    assert remote.listed("bob") == [remote.first], "by the DNS name of its certificate"
    assert "HarddiskVolumeShadowCopy1 of volume " in remote.info("bob", "", "--list").stdout, "which is which"
    assert remote.listed("mallory") == []
    assert "has no [[client]] of this name" in Path(f"{remote.directory}/remote.log").read_text()
    for who, export in (("bob", remote.second), ("mallory", remote.first), ("mallory", ""), ("alice", "x" * 100)):
        refused = remote.info(who, export)
        assert refused.returncode and f"client '{who}'" in refused.stderr and "may not read" in refused.stderr, refused
    target = f"{remote.directory}/pulled"
    for who, export in (("alice", remote.second), ("bob", "HarddiskVolumeShadowCopy1"), ("bob", "")):
        subprocess.run(["nbdcopy", remote.uri(who, export), target], check=True, timeout=60)
        assert Path(target).read_bytes() == remote.content
        os.unlink(target)
    tools("qemu-img")
    keys = f"tls-creds-x509,id=tls,endpoint=client,dir={remote.keys}/alice"
    source = f"driver=nbd,host=localhost,port={remote.port},tls-creds=tls,export={remote.second}"
    convert = ["qemu-img", "convert", "--object", keys, "--image-opts", source, "-O", "raw", target]
    subprocess.run(convert, check=True, timeout=60)
    assert Path(target).read_bytes() == remote.content


def test_a_change_of_the_rules_counts_for_the_next_client(remote: Remote) -> None:
    remote.start()
    head = f'listen = "127.0.0.1:0"\ntls-certificates = "{remote.keys}/server"\n'
    remote.write(head, '[[client]]\nname = "mallory"\nvolumes = ["data"]\n')
    assert remote.listed("mallory") == [remote.first, remote.second] and remote.listed("alice") == []
    remote.write(head, '[[client]]\nname = "mallory"\nvolume = "data"\n')
    assert remote.listed("mallory") == []
    refused = remote.info("mallory", remote.first)
    assert refused.returncode and "there is no key 'volume'" in refused.stderr
    os.unlink(remote.config)
    assert remote.info("mallory", remote.first).returncode
    remote.write(head, '[[client]]\nname = "mallory"\nvolumes = ["data"]\n')
    os.unlink(f"{remote.objects}/2.json")
    Path(f"{remote.objects}/1.json").write_text("{")
    assert remote.listed("mallory") == [], "what is not described is not there"


@pytest.mark.long
def test_nobody_gets_in_without_a_certificate(remote: Remote, nbd_module: Any, certificates: Any) -> None:
    remote.start()
    plain = subprocess.run(
        ["nbdinfo", f"nbd://localhost:{remote.port}/{remote.first}"], capture_output=True, timeout=60, check=False
    )
    assert plain.returncode
    other = f"{remote.directory}/other"
    os.mkdir(other)
    certificates.authority(other, "ca")  # of the same name, with another key
    certificates.issue(other, "ca", "alice", "clientAuth", "alice.example.org")
    for part in ("cert", "key"):
        os.rename(f"{other}/alice-{part}.pem", f"{remote.keys}/alice/client-{part}.pem")
    assert remote.info("alice", remote.first).returncode
    client = nbd_module.NBD()
    client.set_tls(nbd_module.TLS_REQUIRE)
    os.mkdir(f"{remote.keys}/anonymous")
    os.rename(f"{remote.keys}/alice/ca-cert.pem", f"{remote.keys}/anonymous/ca-cert.pem")
    client.set_tls_certificates(f"{remote.keys}/anonymous")
    with pytest.raises(nbd_module.Error):
        client.connect_tcp("localhost", str(remote.port))
        client.pread(512, 0)


BAD = {
    "": "give the address",
    'listen = "x:1"': "one of the keys 'tls-certificates' and 'tls-psk'",
    'listen = "x:1"\ntls-psk = "a"\ntls-certificates = "b"': "one of the keys",
    'listen = "x:1"\ntls = "off"': "there is no key 'tls'",
    'listen = "x:1"\ntls-psk = "a"\nclient = 1': "[[client]]",
    'listen = "x:1"\ntls-psk = "a"\n[[client]]\nvolumes = []': "client 1: give its name",
    'listen = "x:1"\ntls-psk = "a"\n[[client]]\nname = "a"\ncopies = ["12"]': "whole ids",
    'listen = "x:1"\ntls-psk = "a"\n[[client]]\nname = "a"\nvolumes = "data"': "list of texts",
    "listen": "is not TOML",
}


@pytest.mark.parametrize(("text", "words"), BAD.items())
def test_configurations_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "remote.toml"
    path.write_text(text)
    with pytest.raises(VssError) as caught:
        load(str(path))
    assert words in caught.value.message and caught.value.message.startswith(str(path))


@pytest.mark.long
def test_refusals_at_the_start(remote: Remote, tmp_path: Path) -> None:
    def start() -> str:
        done = subprocess.run(remote.command(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        return done.stderr

    os.unlink(f"{remote.keys}/server/ca-cert.pem")
    assert "clients are known by certificates" in start()
    os.rename(remote.objects, f"{remote.objects}.away")
    assert "start the coordinator first" in start()
    os.unlink(remote.config)
    assert "it says who may read which copies" in start()


def test_a_client_that_nothing_is_known_of_sees_nothing(remote: Remote, caplog: pytest.LogCaptureFixture) -> None:
    directory = RemoteDirectory(remote.config, remote.objects)
    assert directory.names() == []
    Path(remote.config).write_text('listen = "x:1"\ntls-psk = "a"\n[[client]]\nname = "eve"\nvolumes = ["mial"]\n')
    assert directory.seen_by(frozenset({"eve"})).names() == []
    assert "allows it the volumes 'mial', and of these there is no copy" in caplog.text
    with pytest.raises(VssError, match="a client without a name may not read"):
        directory.find(remote.first)


@pytest.fixture
def shared_key(remote: Remote) -> Callable[[str], str]:
    """The URI with the key of a user."""
    keys = "".join(f"{name}:{os.urandom(32).hex()}\n" for name in ("alice", "mallory"))
    Path(f"{remote.directory}/keys.psk").write_text(keys)
    remote.write(f'listen = "127.0.0.1:0"\ntls-psk = "{remote.directory}/keys.psk"\n', RULES)
    return lambda user: (
        f"nbds://{user}@localhost:{remote.port}/{remote.second}?tls-psk-file={remote.directory}/keys.psk"
    )


def test_clients_known_by_shared_keys(remote: Remote, shared_key: Callable[[str], str]) -> None:
    if not hasattr(ssl.SSLContext, "set_psk_server_callback"):
        done = subprocess.run(remote.command(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1 and "need Python 3.13" in done.stderr
        return
    remote.start()
    for user, reads in (("alice", True), ("mallory", False), ("alice", True)):
        told = {**os.environ, "LIBNBD_DEBUG": "1"}
        command = ["nbdinfo", shared_key(user)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=told)
        assert (done.returncode == 0) is reads, done.stderr
        assert reads or "client 'mallory' may not read" in done.stderr
