"""One function for each kind of application: looks at the host, and proposes the configuration of its writer."""

from __future__ import annotations

import glob
import json
import os
import pwd
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec

from shadowset.requester.detect.host import Host, Process

SQLITE_HEADER = b"SQLite format 3\0"
HOOKS = (
    "/etc/qemu/fsfreeze-hook.d",
    "/etc/vmware-tools/backupScripts.d",
    "/usr/sbin/pre-freeze-script",
    "/usr/sbin/post-thaw-script",
    "/etc/azure/VMSnapshotScriptPluginConfig.json",
    "/etc/google/snapshots",
)
SNAPPER = "/usr/lib/snapper/plugins"
LIBVIRT_GUESTS = "/etc/libvirt/qemu/*.xml"
INDEX_SIGNS = {"xapian": ("iamglass", "postlist.glass"), "tantivy": ("meta.json", ".managed.json")}
NOT_OURS = ("/proc/", "/sys/", "/dev/", "/tmp/", "/var/tmp/", "/var/lib/shadowset/")
MOST_DATABASES = 500


class Proposal(msgspec.Struct, frozen=True):
    """What was ``found`` in words, and the drop-in ``file`` with its ``text`` for the systemd unit of that writer.

    ``advice`` is what is left to be done by hand.
    """

    writer: str
    found: str
    file: str
    unit: str
    text: str
    advice: str = ""


def quoted(text: str) -> str:
    """A string as TOML has it; JSON's strings are TOML's."""
    return json.dumps(text)


def table(name: str, **values: str) -> str:
    """One table of an array, with the values that are not empty."""
    lines = [f"{key} = {quoted(value)}" for key, value in values.items() if value]
    return "\n".join([f"[[{name}]]", *lines]) + "\n"


def postgresql(host: Host) -> list[Proposal]:
    """A process in a directory whose postmaster.pid names it."""
    clusters = []
    for process in host.named("postgres", "postmaster"):
        lines = _lines(f"{process.directory}/postmaster.pid") if process.directory else []
        if len(lines) >= 5 and lines[0] == str(process.pid):
            place = lines[4] or "localhost"
            connection = f"host={place} port={lines[3]} dbname=postgres"
            clusters.append(table("cluster", connection=connection, data_directory=process.directory))
    return _one("postgresql", "PostgreSQL cluster", clusters)


def mariadb(host: Host) -> list[Proposal]:
    """A server by the socket that it listens on."""
    servers = []
    for process in host.named("mariadbd", "mysqld"):
        for path in host.listening(process)[:1]:
            named = process.option("--datadir")
            directory = next((each for each in (process.directory, named) if _has(each, "ibdata1")), "")
            servers.append(table("server", socket=path, data_directory=directory))
    advice = "give the writer a user: docs/writers/mariadb.md"
    return _one("mariadb", "MariaDB or MySQL server", servers, advice if servers else "")


def redis(host: Host) -> list[Proposal]:
    """A server by its socket; one without can be found, but not reached."""
    servers, advice = [], ""
    for process in host.named("redis-server", "valkey-server"):
        sockets = host.listening(process)
        if sockets:
            servers.append(table("server", socket=sockets[0], data_directory=process.directory))
        else:
            advice = f"process {process.pid} listens on no Unix socket: set unixsocket in its redis.conf, detect again"
    return _one("redis", "Redis server", servers, advice)


def groonga(host: Host) -> list[Proposal]:
    """A server that speaks HTTP, by its command line."""
    servers = []
    for process in host.named("groonga", "groonga-httpd"):
        database = next((word for word in reversed(process.words[1:]) if os.path.isfile(_absolute(process, word))), "")
        if database and "-s" in process.words:
            address = process.option("--bind-address") or "127.0.0.1"
            url = f"http://{address}:{process.option('-p', '--port') or '10041'}"
            servers.append(table("server", database=_absolute(process, database), url=url))
    return _one("groonga", "Groonga server", servers)


def qemu(host: Host) -> list[Proposal]:
    """Any guest, and any that libvirt has defined: the writer finds them all by itself."""
    guests = [process for process in host.processes if process.name.startswith(("qemu-system-", "kvm"))]
    defined = {os.path.basename(path).removesuffix(".xml") for path in glob.glob(LIBVIRT_GUESTS)}
    running = {_libvirt_guest(process) for process in guests} - {""}
    count = sum(not _libvirt_guest(process) for process in guests) + len(defined | running)
    if not count:
        return []
    found, advice = f"{count} guests", ""
    if defined | running:
        found += f", {len(defined | running)} of them under libvirt"
        advice = "see that python3-libvirt is installed: the writer asks libvirt by it"
    text = "# Empty: the writer finds all guests that run. docs/writers/qemu.md tells how to name them.\n"
    return [Proposal("QEMU Writer", found, "qemu.toml", "shadowset-writer-qemu", text, advice)]


def _libvirt_guest(process: Process) -> str:
    """The name of a guest that libvirt has started; empty for any other."""
    if not any(word.startswith("socket,id=charmonitor,") for word in process.words):
        return ""
    return process.option("-name").partition(",")[0].removeprefix("guest=")


def plone(host: Host) -> list[Proposal]:
    """Zope by its configuration on the command line; what belongs to its farm nobody but its administrator knows."""
    signs, programs = {"zope.conf", "zope.ini"}, ("python", "runwsgi")
    servers = [process for process in host.processes if process.name.startswith(programs)]
    found = [process for process in servers if signs & {os.path.basename(word) for word in process.words}]
    if not found:
        return []
    numbers = ", ".join(str(process.pid) for process in found)
    advice = "where RelStorage keeps its databases in PostgreSQL, describe its farm: docs/writers/plone.md"
    return [
        Proposal("Plone Farm Writer", f"Zope (process {numbers})", "plone.toml", "shadowset-writer-plone", "", advice)
    ]


def oracle(host: Host) -> list[Proposal]:
    """A database by its process monitor."""
    sign = "ora_pmon_"
    names = [process.name.removeprefix(sign) for process in host.processes if process.name.startswith(sign)]
    copies = "/var/lib/shadowset-oracle"
    databases = [table("database", dsn=f"localhost/{name}", copies=f"{copies}/{name}") for name in names]
    advice = "check the dsn, and make the directory for copies; this writer was never tested on the product"
    return _one("oracle", "Oracle database", databases, advice if databases else "")


def hooks(_host: Host) -> list[Proposal]:
    """Scripts in the places of the products that call them."""
    found = [place for place in HOOKS if _is_used(place)]
    unit, advice = "shadowset-writer-hooks", ""
    if _is_used(SNAPPER):
        advice = f"the plug-ins in {SNAPPER} have to be named with their subvolume: docs/writers/hooks.md"
    if not found:
        return [Proposal("Hook Script Writer", SNAPPER, "hooks.toml", unit, "", advice)] if advice else []
    text = "# Empty: the writer runs what is in the usual places. docs/writers/hooks.md tells how to name others.\n"
    return [Proposal("Hook Script Writer", ", ".join(found), "hooks.toml", unit, text, advice)]


def _is_used(place: str) -> bool:
    return os.path.isfile(place) or (os.path.isdir(place) and bool(os.listdir(place)))


def sqlite(host: Host) -> list[Proposal]:
    """Databases that a process has open, by their owners: the writer runs as one of them."""
    owners: dict[int, set[str]] = defaultdict(set)
    for process in host.processes:
        for path in host.files(process):
            if not path.startswith(NOT_OURS) and _is_sqlite(path):
                owners[os.stat(path).st_uid].add(path)
    proposals = []
    for uid, paths in sorted(owners.items()):
        user = _user(uid)
        shown = sorted(paths)[:MOST_DATABASES]
        text = "databases = [\n" + "".join(f"    {quoted(path)},\n" for path in shown) + "]\n"
        unit = f"shadowset-writer-sqlite@{user}"
        found = f"{len(paths)} SQLite databases of {user} that are open"
        advice = f"say User={user} in 'systemctl edit {unit}'"
        proposals.append(Proposal("SQLite Writer", found, f"sqlite-{user}.toml", unit, text, advice))
    return proposals


def index(host: Host) -> list[Proposal]:
    """Directories of a library's files, some of which a process has open or mapped: one look at each directory."""
    kinds: dict[str, str] = {}
    for process in host.processes:
        paths = {*host.files(process), *host.mapped(process)}
        for directory in {os.path.dirname(path) for path in paths if not path.startswith(NOT_OURS)} - kinds.keys():
            kinds[directory] = _index_kind(directory)
    indexes = [table("index", kind=kind, path=path) for path, kind in sorted(kinds.items()) if kind]
    advice = "see that each indexer lets go of its lock between batches: docs/writers/index.md" if indexes else ""
    return _one("index", "search index", indexes, advice, "es")


def _index_kind(directory: str) -> str:
    for kind, signs in INDEX_SIGNS.items():
        if all(_has(directory, sign) for sign in signs):
            return kind
    return ""


def system(_host: Host) -> list[Proposal]:
    """Every host has a system."""
    live = not any(each.startswith(("/dev/nbd", "/dev/shadowset")) for each in _root_devices())
    text = "# The root is on no volume that Shadowset serves, so it is read as it is.\nread_live = true\n"
    unit = "shadowset-writer-system"
    return [
        Proposal("System Writer", "this host itself", "system.toml", unit, text if live else "# All as it comes.\n")
    ]


KINDS: tuple[Callable[[Host], list[Proposal]], ...] = (
    postgresql, mariadb, redis, groonga, sqlite, index, plone, qemu, oracle, hooks, system
)  # fmt: skip


def detect(host: Host) -> list[Proposal]:
    """All proposals."""
    return [proposal for kind in KINDS for proposal in kind(host)]


def _one(name: str, what: str, tables: list[str], advice: str = "", plural: str = "s") -> list[Proposal]:
    if not tables and not advice:
        return []
    found = f"{len(tables)} {what}{'' if len(tables) == 1 else plural}"
    titles = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "index": "Search Index"}
    writer = f"{titles.get(name, name.capitalize())} Writer"
    return [Proposal(writer, found, f"{name}.toml", f"shadowset-writer-{name}", "\n".join(tables), advice)]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _has(directory: str, name: str) -> bool:
    return bool(directory) and os.path.exists(f"{directory}/{name}")


def _absolute(process: Process, path: str) -> str:
    return os.path.join(process.directory, path)


def _is_sqlite(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
    except OSError:
        return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _root_devices() -> list[str]:
    return [line.split()[0] for line in _lines("/proc/self/mounts") if line.split()[1] == "/"]
