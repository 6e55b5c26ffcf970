"""The tutorials for a file server, a database server and a backup host, typed on hosts that have just those.

Only what a reader would replace is replaced: the disk, names of copies. No systemd runs there, so a stand-in does what
systemctl is told, with the commands and users that the installed units have.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from walking import DONE, ROOT, walk

SYSTEMCTL = """\
#!/bin/sh
# start, stop, restart and enable --now of one unit; everything else is the real one's business
set -eu
now=
[ "$1 $2" != "enable --now" ] || { shift 2; set -- start "$1"; now=yes; }
case $1 in start | stop | restart) ;; *) exec /usr/bin/systemctl "$@" ;; esac
verb=$1 unit=${2%.service}
[ -z "$now" ] || /usr/bin/systemctl --quiet --root=/ enable "$unit"
started=/run/stand-in.$unit
file() { for each in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
    [ ! -e "$each/$1" ] || { echo "$each/$1"; return; }; done; echo "no unit $1" >&2; exit 5; }
field() { sed -n "s/^$2=//p" "$1"; }
stop() {
    case $unit in
    smbd) pid=$(cat /run/samba/smbd.pid) ;;
    postgresql) pg_ctlcluster "$version" main stop; return ;;
    *) pid=$(cat "$started"); rm "$started" ;;
    esac
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}
start() {
    case $unit in
    smbd) mkdir -p /run/samba; smbd -D; return ;;
    postgresql) pg_ctlcluster "$version" main start; return ;;
    *.timer) at=$(file "$unit"); systemd-analyze calendar "$(field "$at" OnCalendar)"; unit=${unit%.timer} ;;
    esac
    at=$(file "$unit.service") user=
    command=$(field "$at" ExecStart)
    [ -z "$(field "$at" User)" ] || user="runuser -u $(field "$at" User) --"
    if [ "$(field "$at" Type)" = oneshot ]; then $user $command; return; fi
    setsid $user $command >>/tmp/services 2>&1 &
    echo $! >"$started"
}
[ "$verb" = start ] || stop
[ "$verb" = stop ] || start
"""

BEFORE = """\
set -eu
export LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
rm -rf /etc/shadowset /var/lib/shadowset /mnt/* /usr/local/bin/* /var/lib/postgresql /etc/postgresql
cat >/usr/local/bin/systemctl
chmod 0755 /usr/local/bin/systemctl
cleanup() {
    status=$?
    [ $status = 0 ] || { echo "FAILED after: $typed" >&2; shadowset events >&2 || true; cat /tmp/services || true; }
    for each in $services; do systemctl stop "$each" || true; done
    umount "$place" 2>/dev/null || true
    shadowset volume detach "$volume" || true
    shadowset volume remove "$volume" --force || true
    systemctl stop shadowsetd || true
    umount /run/shadowset/devices 2>/dev/null || true
    losetup --detach "$disk" || true
    exit $status
}
dpkg --install /srv/shadowset.deb >/dev/null
truncate -s 320M /srv/disk
disk=$(losetup --find --show /srv/disk)
mkfs.ext4 -q "$disk"
mkdir -p /backup "$place"
mount "$disk" "$place"
services= typed=
trap cleanup EXIT
until_ready() { n=0; until "$@" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 100 ]; sleep 0.2; done; }
copy() { shadowset list --json | sed -n 's/.*"snapshot_id": "\\(.*\\)",/\\1/p' | head -n 1; }
"""
READY = "until_ready shadowset status"


class Walk(NamedTuple):
    """A page: what the host has, what is done before and after commands, and what is replaced in them."""

    page: str
    variables: str
    host: str
    around: dict[str, tuple[str, str]]
    replaced: tuple[tuple[str, str], ...]
    shown: int = 2
    """How many files the page shows."""


SAMBA = Walk(
    "samba.md",
    "place=/srv/data volume=data",
    """\
mkdir -p /srv/data/projects/plans
echo then >/srv/data/projects/plans/one
chmod -R a+rX /srv/data
useradd alice
printf '[global]\\nsmb ports = 4455\\ninterfaces = lo\\nbind interfaces only = yes\\ndisable netbios = yes\\n' \\
    >/etc/samba/smb.conf
mkdir -p /run/samba
printf 'secret\\nsecret\\n' | smbpasswd -s -a alice
export PASSWD=secret
systemctl start smbd
services=smbd
""",
    {
        "shadowset setup": ("", f"systemctl start shadowsetd; {READY}"),
        "mount /dev/shadowset/data /srv/data": ("", "grep -qx then /srv/data/projects/plans/one"),
        "shadowset samba config projects --path /srv/data/projects": (
            "",
            "cat /tmp/said >>/etc/samba/smb.conf; smbcontrol all reload-config",
        ),
        "shadowset samba check projects --user alice": (
            "until_ready test -d /run/shadowset/previous/data/@GMT*/projects",
            "grep -q 'clients see 1 of 1 versions' /tmp/said; systemctl enable --now shadowset-previous.timer; "
            'shadowset hold "$(copy)" --for 90d; shadowset hold "$(copy)" --end; '
            "echo later >/srv/data/projects/plans/one; echo new >/srv/data/projects/plans/two",
        ),
        "rsync -aAX --delete /mnt/projects/plans/ /srv/data/projects/plans/": (
            "",
            "grep -qx then /srv/data/projects/plans/one; test ! -e /srv/data/projects/plans/two; "
            "echo later >/srv/data/projects/plans/one",
        ),
        "shadowset volume attach data && mount /dev/shadowset/data /srv/data && systemctl start smbd": (
            "",
            "grep -qx then /srv/data/projects/plans/one; "
            "smbclient -p 4455 -U alice //127.0.0.1/projects -c ls >/tmp/said",
        ),
    },
    (
        ("/dev/vg/data", '"$disk"'),
        ("HarddiskVolumeShadowCopy7", '"$(copy)"'),
        ("--max-size 100G", "--max-size 1G"),
        ("--user alice", "--user alice --port 4455"),
    ),
)


def driver() -> str:
    """The files of psycopg that these tests have: the package of the distribution may not be there."""
    import psycopg

    place = Path(psycopg.__file__).parents[1]
    return " ".join(map(str, [*place.glob("psycopg*"), *place.glob("typing_extensions.py")]))


POSTGRESQL = Walk(
    "postgresql.md",
    f"place=/var/lib/postgresql volume=pg version=15 driver='{driver()}'; export version",
    """\
python3 -c 'import psycopg' 2>/dev/null || cp -r $driver /usr/lib/python3/dist-packages/
chown postgres: /var/lib/postgresql
pg_createcluster 15 main >/dev/null
echo "listen_addresses = ''" >>/etc/postgresql/15/main/postgresql.conf
mkdir -p /run/postgresql
chown postgres: /run/postgresql
systemctl start postgresql
services=postgresql
sql() { runuser -u postgres -- psql -p 5432 -XAtqc "$1" postgres; }
sql 'create table t(x int); insert into t values (1)'
is_registered() { shadowset writers | grep -q '\\[1\\] stable'; }
""",
    {
        "shadowset setup --writer postgres": ("", f"systemctl start shadowsetd; {READY}"),
        "systemctl restart shadowsetd": ("", READY),
        "systemctl enable --now shadowset-writer-postgresql": (
            "",
            "services='shadowset-writer-postgresql postgresql'; until_ready is_registered",
        ),
        "shadowset backup /backup/monday": ("", "sql 'insert into t values (2)'"),
        "shadowset restore /backup/monday": ("", "test \"$(sql 'select x from t')\" = 1"),
    },
    (("/dev/vg/pg", '"$disk"'),),
)


IN_SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def in_shell(page: str) -> str:
    """What a page gives to the shell as a whole."""
    return "".join(IN_SHELL.findall(page))


REMOTE = Walk(
    "remote.md",
    'place=/srv/mail volume=mail port=$(python3 -c \'import socket; s = socket.create_server(("127.0.0.1", 0)); '
    "print(s.getsockname()[1])')",
    f"""\
umount /srv/mail
systemctl start shadowsetd
{READY}
shadowset volume add mail "$disk"
shadowset volume attach mail
mount /dev/shadowset/mail /srv/mail
echo then >/srv/mail/inbox
echo '127.0.0.1 mail' >>/etc/hosts
mkdir -p /root/vault /etc/shadowset/tls /etc/pki/backup
cd /root/vault
{in_shell((ROOT / "docs/tutorials/remote.md").read_text())}
cp ca-cert.pem server-cert.pem server-key.pem /etc/shadowset/tls
cp ca-cert.pem client-cert.pem client-key.pem /etc/pki/backup
vault='?tls-certificates=/etc/pki/backup'
""",
    {
        "systemctl enable --now shadowset-remote": (
            'sed -i "s/0.0.0.0:10809/127.0.0.1:$port/" /etc/shadowset/remote.toml',
            'services=shadowset-remote; until_ready nbdinfo --list "nbds://mail:$port/$vault"',
        ),
        "shadowset create mail --tries 3": ("", "echo later >/srv/mail/inbox"),
        "nbdinfo --list 'nbds://mail/?tls-certificates=/etc/pki/backup'": (
            "",
            "grep -q 'HarddiskVolumeShadowCopy1 of volume mail, made ' /tmp/said; "
            '! nbdinfo --list "nbds://mail:$port/" >/dev/null 2>&1',
        ),
        "nbdcopy 'nbds://mail/HarddiskVolumeShadowCopy7?tls-certificates=/etc/pki/backup' mail-monday.img": (
            "",
            "mount -o ro,loop mail-monday.img /mnt; grep -qx then /mnt/inbox; umount /mnt",
        ),
    },
    (
        ("apt install libnbd-bin", "command -v nbdinfo nbdcopy"),
        ("nbds://mail/", "nbds://mail:'\"$port\"'/"),
        ("HarddiskVolumeShadowCopy7", "HarddiskVolumeShadowCopy1"),
    ),
    shown=1,
)


def files(page: str) -> Iterator[tuple[str, str]]:
    """The files that a page shows with their paths, and the one that its text names."""
    for block in re.findall(r"^```(?:toml)?\n(.*?)^```", IN_SHELL.sub("", page), re.MULTILINE | re.DOTALL):
        parts = re.split(r"^# (/etc/\S+)\n", block, flags=re.MULTILINE)
        if not parts[0]:
            yield from zip(parts[1::2], parts[2::2], strict=True)
        elif "target" in block:
            yield "/etc/shadowset/jobs.d/nightly.toml", block


def script(one: Walk) -> str:
    """All of a page, for a shell that ends at the first failure."""
    page = (ROOT / "docs/tutorials" / one.page).read_text()
    lines = [
        one.variables,
        f"cat >/srv/systemctl <<'STAND-IN'\n{SYSTEMCTL}STAND-IN",
        BEFORE.replace("cat >/usr/local/bin/systemctl", "cp /srv/systemctl /usr/local/bin/systemctl"),
        one.host,
    ]
    for path, text in files(page):
        lines.append(f"mkdir -p $(dirname {path})\ncat >{path} <<'END'\n{text}END")
    for command in commands(page):
        before, after = one.around.get(command, ("", ""))
        real = command
        for said, meant in one.replaced:
            real = real.replace(said, meant)
        told = "" if ">" in real else " >/tmp/said"
        lines += [before, "typed='" + command.replace("'", '"') + "'", real + told, after]
    return "\n".join([*lines, f"echo {DONE}"])


def commands(page: str) -> list[str]:
    """What a page says to type, without its remarks."""
    return [re.sub(r"\s+# .*$", "", line) for line in re.findall(r"^    (\S.*)$", IN_SHELL.sub("", page), re.MULTILINE)]


@pytest.mark.parametrize("one", [SAMBA, POSTGRESQL, REMOTE], ids=lambda one: one.page)
def test_everything_of_a_tutorial_is_typed(one: Walk) -> None:
    page = (ROOT / "docs/tutorials" / one.page).read_text()
    found = commands(page)
    assert len(found) > 4 and set(one.around) <= set(found), set(one.around) - set(found)
    assert len(list(files(page))) == one.shown
    subprocess.run(["sh", "-nc", script(one)], check=True, timeout=60)


needs_host = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


@pytest.mark.long
@pytest.mark.host
@needs_host
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("one", "program"),
    [(SAMBA, "/usr/sbin/smbd"), (POSTGRESQL, "/usr/lib/postgresql/15/bin/initdb"), (REMOTE, "nbdcopy")],
)
def test_a_tutorial_can_be_followed(one: Walk, program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"not installed: {program}")
    walk(script(one), tmp_path)
