#!/bin/sh
# Unpack a MySQL server with the libraries that it needs into build/mysql; nothing is installed on this host.
# Debian 12 has MariaDB alone, so both come from Debian's unstable branch. Exit status 2 with one sentence when they cannot be had.
set -eu

fail() {
    echo "fetch_mysql.sh: $1; tests that need MySQL will be skipped" >&2
    exit 2
}

[ ! -e build/mysql/usr/sbin/mysqld ] || exit 0
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || fail "this is no Debian for amd64"
mkdir -p build
work=$(mktemp -d "$PWD/build/fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
: >"$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main" >"$work/sources.list"
cat >"$work/apt.conf" <<END
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Sandbox::User "root";
END
export APT_CONFIG="$work/apt.conf"
apt-get -qq update >"$work/log" 2>&1 || fail "Debian's unstable branch cannot be read ($(tail -n 1 "$work/log"))"
apt-get -qq -y -d --no-install-recommends install mysql-server-core >"$work/log" 2>&1 ||
    fail "mysql-server-core cannot be downloaded ($(tail -n 1 "$work/log"))"
for package in "$work"/cache/archives/*.deb; do
    case ${package##*/} in
    perl* | libperl* | libgdbm* | libdb5*) ;; # for its scripts, which are not used
    *) dpkg-deb -x "$package" "$work/root" ;;
    esac
done
mv "$work/root" build/mysql
