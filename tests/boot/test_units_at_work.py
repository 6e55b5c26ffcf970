"""Timers and writers' units, each in its sandbox, with a real systemd around them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.long, pytest.mark.timeout(1800)]

# Inserts into the data base in WAL mode until /run/stop is there.
INSERTS = r"""
import os, sqlite3
base = sqlite3.connect("/srv/data/app/orders.db", isolation_level=None)
base.execute("pragma journal_mode=wal")
base.execute("create table if not exists t (a integer, b integer)")
while not os.path.exists("/run/stop"):
    base.execute("insert into t select coalesce(max(a), 0) + 1, coalesce(max(a), 0) + 1 from t")
"""
JOB = """target = "/backup"
schedule = "*-*-* *:*:00/15"
writers = ["SQLite Writer"]
"""
HOOKS = """[[hook]]
kind = "command"
name = "mail"
freeze = ["/usr/local/sbin/mail-pause"]
thaw = ["/usr/local/sbin/mail-resume"]
files = ["/srv/data"]
"""
SCRIPT = "#!/bin/sh\ndate +%s.%N >>/run/{name}\n"


def put(machine: Any, path: str, text: str) -> None:
    machine.run(f"cat >{path} <<'E'\n{text}E")


def writer(machine: Any, unit: str, name: str) -> None:
    """Enable a writer's unit, and wait until the coordinator knows it."""
    machine.run(f"systemctl -q enable --now {unit}")
    machine.wait(f"the writer {name}", f"shadowset writers | grep '{name}'")


def sandbox(machine: Any, unit: str) -> None:
    """The unit's process can neither write below /usr nor see the host's devices, and has few capabilities."""
    pid = machine.run(f"systemctl show -P MainPID {unit}")
    machine.run(f"! nsenter -t {pid} -m touch /usr/x 2>/dev/null && ! nsenter -t {pid} -m test -e /dev/ubda")
    assert "NoNewPrivs:\t1" in machine.run(f"cat /proc/{pid}/status")


def test_a_timer_fires_and_a_writer_in_its_sandbox_takes_part(machine: Any) -> None:
    machine.run("mkdir -p /srv/data/app /backup")
    (machine.exchange / "inserts.py").write_text(INSERTS)
    machine.run("rm -f /run/stop; setsid python3 /exchange/inserts.py >/run/inserts 2>&1 &")
    machine.wait("the data base", "sqlite3 /srv/data/app/orders.db 'select 1 from t limit 1' | grep 1")
    put(machine, "/etc/shadowset/writers.d/sqlite-app.toml", 'databases = ["/srv/data/app/*.db"]\n')
    writer(machine, "shadowset-writer-sqlite@app", "SQLite Writer")
    sandbox(machine, "shadowset-writer-sqlite@app")
    put(machine, "/etc/shadowset/jobs.d/often.toml", JOB)
    machine.run("shadowset job schedule often")
    assert machine.run("systemctl is-active shadowset-job@often.timer") == "active"
    machine.wait("a run by the timer", "shadowset job status often --json | grep '\"succeeded\"'")
    machine.run("shadowset job unschedule often")
    machine.wait("the end of the last run", "! systemctl is-active -q shadowset-job@often.service")
    assert machine.status("systemctl cat shadowset-job@often.timer")[0]
    machine.run("touch /run/stop")

    (version, *_) = machine.run("ls -d /backup/often/*-full /backup/*-full 2>/dev/null", check=False).splitlines()
    machine.run(f"shadowset restore {version} --to /root/restored")
    told = machine.run(
        "sqlite3 /root/restored/srv/data/app/orders.db 'pragma integrity_check; select count(*) > 0 from t'"
    )
    assert told == "ok\n1"
    assert not machine.run("grep -i error /run/inserts", check=False)
    assert not machine.run("systemctl --failed --no-legend --plain")


def test_a_hook_writer_that_is_killed_while_frozen_still_thaws(machine: Any) -> None:
    for name in ("mail-pause", "mail-resume"):
        put(machine, f"/usr/local/sbin/{name}", SCRIPT.format(name=name))
        machine.run(f"chmod 755 /usr/local/sbin/{name}")
    put(machine, "/etc/shadowset/writers.d/hooks.toml", HOOKS)
    writer(machine, "shadowset-writer-hooks", "Hook")
    machine.run("shadowset create data")
    assert machine.run("cat /run/mail-pause | wc -l; cat /run/mail-resume | wc -l") == "1\n1"

    machine.run("echo 'kill -9 $(systemctl show -P MainPID shadowset-writer-hooks)' >>/usr/local/sbin/mail-pause")
    status, said = machine.status("shadowset create data")
    assert status, f"the set was made without its writer: {said}"
    machine.wait("the thaw", "test $(wc -l </run/mail-resume) = 2")
    machine.run("sed -i '/kill/d' /usr/local/sbin/mail-pause")
    machine.wait("another writer", "test $(systemctl show -P NRestarts shadowset-writer-hooks) = 1")
    machine.wait("a set with it", "shadowset writers | grep Hook && shadowset create data")
    assert machine.run("wc -l </run/mail-resume") == "3"


def test_the_system_writer_and_the_least_sandboxes(machine: Any) -> None:
    put(machine, "/etc/shadowset/writers.d/system.toml", "")
    writer(machine, "shadowset-writer-system", "System Writer")
    machine.run("shadowset writers test 'System Writer' || shadowset writers")
    told = json.loads(machine.run("systemd-analyze security --json=short --no-pager shadowsetd.service"))
    kept = {each["json_field"] for each in told if each["set"]}
    assert {"NoNewPrivileges", "RestrictRealtime", "LockPersonality"} <= kept, kept
    overall = machine.run("systemd-analyze security --no-pager shadowset-writer-sqlite@x.service | tail -1")
    exposure = re.search(r"service: ([\d.]+)", overall)
    assert exposure and float(exposure[1]) < 7, overall
    assert not machine.run("systemctl --failed --no-legend --plain")


# Asks the server for its list over NBD with TLS, then reads the first 4 KiB of the first copy; prints name and digest.
CLIENT = r"""
import hashlib, socket, ssl, struct
sock = socket.create_connection(("127.0.0.1", 10809), 60)
def take(number):
    data = b""
    while len(data) < number:
        data += sock.recv(number - len(data)) or exit("the server closed the connection")
    return data
def ask(option, data=b""):
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", option, len(data)) + data)
    _, _, kind, length = struct.unpack(">QIII", take(20))
    return kind, take(length)
take(18); sock.sendall(struct.pack(">I", 3))
assert ask(5)[0] == 1, "no TLS"
context = ssl.create_default_context(cafile="/exchange/ca.pem")
context.check_hostname = False
context.load_cert_chain("/exchange/client.pem", "/exchange/client.key")
sock = context.wrap_socket(sock)
kind, data = ask(3)
assert kind == 2, (hex(kind), data)
name = data[4 : 4 + struct.unpack(">I", data[:4])[0]]
take(20)
kind, data = ask(7, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
while kind != 1:
    assert not kind & 1 << 31, data
    _, _, kind, length = struct.unpack(">QIII", take(20)); data = take(length)
sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 4096))
_, error, _ = struct.unpack(">IIQ", take(16))
print(name.decode(), error, hashlib.md5(take(4096)).hexdigest())
"""
REMOTE = """listen = "127.0.0.1:10809"
tls-certificates = "/etc/shadowset/tls"
[[client]]
name = "client"
volumes = ["data"]
"""


def certificates(directory: Any) -> None:
    """An authority with a certificate for the server and one for the client."""
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
    subprocess.run(made.split(), cwd=directory, check=True, capture_output=True, timeout=120)
    for name in ("server", "client"):
        ask = f"openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        sign = f"openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out {name}.pem"
        for command in (ask, sign):
            subprocess.run(command.split(), cwd=directory, check=True, capture_output=True, timeout=120)


def test_the_remote_service_reads_copies_in_its_sandbox(machine: Any) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    certificates(machine.exchange)
    (machine.exchange / "client.py").write_text(CLIENT)
    machine.run(
        "mkdir -m 700 /etc/shadowset/tls; cd /exchange; T=/etc/shadowset/tls; cp ca.pem $T/ca-cert.pem; "
        "cp server.pem $T/server-cert.pem; cp server.key $T/server-key.pem; chmod 600 $T/*; chown root: $T/*"
    )
    put(machine, "/etc/shadowset/remote.toml", REMOTE)
    machine.run("dd if=/dev/urandom of=/srv/data/x bs=64k count=8; sync; shadowset create data; ip link set lo up")
    machine.run("systemctl enable --now shadowset-remote")
    machine.wait("the remote service", "grep -i ':2A39 ' /proc/net/tcp")
    said = machine.run("python3 /exchange/client.py")
    digest = machine.run("head -c 4096 /run/shadowset/devices/HarddiskVolumeShadowCopy1 | md5sum").split()[0]
    assert said.split()[1:] == ["0", digest], f"{said}\n{machine.journal('shadowset-remote')}"
    assert not machine.run("systemctl --failed --no-legend --plain")
