"""A MySQL server of a test's own, from what ``tests/fetch_mysql.sh`` has unpacked: Debian 12 has none itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mariadb_server import MariaDb

ROOT = Path(__file__).resolve().parents[2] / "build" / "mysql"
LIBRARIES = ROOT / "usr/lib/x86_64-linux-gnu"
PROGRAM = (
    f"{LIBRARIES}/ld-linux-x86-64.so.2 --library-path {LIBRARIES} {ROOT}/usr/sbin/mysqld --no-defaults --user=root"
    f" --basedir={ROOT}/usr --lc-messages-dir={ROOT}/usr/share/mysql"
    f" --character-sets-dir={ROOT}/usr/share/mysql/charsets --plugin-dir={ROOT}/usr/lib/mysql/plugin"
    " --secure-file-priv=NULL --mysqlx=0"
)


def missing() -> str:
    """What is not there; empty when a server can be started."""
    return "" if (ROOT / "usr/sbin/mysqld").exists() else "MySQL; run sh tests/fetch_mysql.sh"


class MySql(MariaDb):
    """It runs as root, who alone may be able to read what was unpacked."""

    owner = "root"
    tables = (("money", "InnoDB"), ("notes", "MyISAM"))

    def __init__(self, data: str, runtime: str, binary_log: str = "", directories: str = "") -> None:
        """``directories`` is where tables may lie beside the data directory."""
        self._directories = f" --innodb-directories={directories}" if directories else ""
        super().__init__(data, runtime, binary_log)

    def _program(self) -> str:
        return f"{PROGRAM} --gtid-mode=ON --enforce-gtid-consistency --innodb-redo-log-capacity=16M{self._directories}"

    def _make(self) -> None:
        command = [*PROGRAM.split(), "--initialize-insecure", f"--datadir={self.data}"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
