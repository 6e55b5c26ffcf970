#!/bin/sh
# Install what `make demo`, `make test`, `make test-long`, `make test-boot`, `make bench` or `make deb` needs: Debian packages (as root) and a virtual environment.
# Usage: PYTHON=/usr/bin/python3 tests/install.sh demo|test|long|farm|boot|bench|deb
# Exit status 2 with one sentence when something is missing that cannot be installed.
set -eu

lane=${1:-test}
python=${PYTHON:-/usr/bin/python3}
venv=.venv

compiler="gcc libc6-dev python3-dev"
common="python3-venv e2fsprogs xfsprogs fuse3 mount util-linux kmod"
tests="btrfs-progs dmsetup libnbd-bin python3-libnbd python3-xapian python3-libvirt qemu-utils fio nbdkit attr user-mode-linux procps systemd openssl file iproute2 groff-base postgresql mariadb-server-core mariadb-client-core redis-tools groonga-bin restic borgbackup rsync qemu-system-x86 busybox-static cpio fdisk cryptsetup-bin dosfstools debootstrap"
browser="chromium fonts-dejavu-core"
samba="samba smbclient samba-common-bin samba-vfs-modules samba-testsuite"
case $lane in
demo) packages=$common extras=farm ;;
test) packages="$common $compiler $tests $samba $browser" extras=farm,index,manual,mariadb,metrics,postgresql,redis,test ;;
long) packages="libvirt-daemon libvirt-daemon-driver-qemu" extras=farm,index,manual,mariadb,metrics,postgresql,redis,test ;;
farm) packages="$common $compiler $tests" extras=farm,index,manual,mariadb,metrics,postgresql,redis,test ;;
boot) packages="$common $compiler groff-base openssl user-mode-linux debootstrap" extras=manual,mariadb,metrics,redis,test ;;
deb) packages="python3-venv groff-base $compiler" extras=manual,mariadb,metrics,redis,test ;;
bench) packages="$common $compiler $tests qemu-system-common" extras=farm,index,manual,mariadb,metrics,postgresql,redis,test,bench ;;
*) echo "install.sh: $lane is none of demo, test, long, farm, boot, bench and deb" >&2; exit 2 ;;
esac

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

if command -v dpkg-query >/dev/null; then
    missing=
    for package in $packages; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
        *" installed") ;;
        *) missing="$missing $package" ;;
        esac
    done
    if [ -n "$missing" ] && [ "$(id -u)" = 0 ]; then
        echo "installing Debian packages:$missing"
        export DEBIAN_FRONTEND=noninteractive
        # the tests make clusters of their own: none is made, and none started, because PostgreSQL is installed
        quiet=/etc/postgresql-common/createcluster.d/shadowset-tests.conf
        case $missing in
        *postgresql*) mkdir -p "${quiet%/*}" && echo 'create_main_cluster = false' >"$quiet" ;;
        esac
        get="apt-get -o DPkg::Lock::Timeout=300 -qq"
        { $get update && $get install -y --no-install-recommends $missing; } >/dev/null 2>"${TMPDIR:-/tmp}/install.$$" || {
            tail -n 3 "${TMPDIR:-/tmp}/install.$$" >&2
            rm -f "${TMPDIR:-/tmp}/install.$$" "$quiet"
            fail "the Debian packages$missing cannot be installed; install them by hand and try again"
        }
        rm -f "${TMPDIR:-/tmp}/install.$$" "$quiet"
    elif [ -n "$missing" ]; then
        echo "not installed, and tests that need them will be skipped:$missing"
    fi
else
    echo "this is no Debian: these packages' equivalents must be there: $packages"
fi

# the tests' guests get a kernel and an agent of their own; neither is installed on this host
if [ "$lane" = test ] && [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] && ! ls build/guest/qemu-guest-agent*.deb >/dev/null 2>&1; then
    kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
    mkdir -p build/guest
    (cd build/guest && apt-get -qq download "$kernel" qemu-guest-agent >/dev/null 2>&1) ||
        echo "cannot be downloaded, and tests that need a guest will be skipped: $kernel qemu-guest-agent"
fi

stamp="$venv/.installed-$lane"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "making the virtual environment $venv"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "$python cannot make a virtual environment; install python3-venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]" ||
        fail "the Python packages cannot be installed; look at the message above"
    touch "$stamp"
fi

if [ "$lane" = farm ]; then
    stamp=.venv-farm/.installed
    if [ ! -e "$stamp" ] || [ tests/farm-requirements.txt -nt "$stamp" ]; then
        echo "installing Plone into .venv-farm (minutes)"
        [ -x .venv-farm/bin/python ] || "$python" -m venv .venv-farm || fail "$python cannot make a virtual environment"
        .venv-farm/bin/python -m pip install --quiet --disable-pip-version-check -r tests/farm-requirements.txt ||
            fail "Plone cannot be installed; look at the message above"
        touch "$stamp"
    fi
fi
