#!/bin/sh
# Run a command in a copy of this host that is thrown away: an overlay over /, with /run, /tmp, /srv, /media and
# /dev/shadowset of its own.
# Usage: copy_of_host.sh DIRECTORY COMMAND [ARGUMENT...]; DIRECTORY exists and is empty. Devices are the host's.
set -eu

directory=$1
shift
if [ "${INSIDE:-}" != yes ]; then
    # Where / is no mount, as in a chroot, there is no namespace to be had, and what is mounted is unmounted here.
    # With it goes a namespace of processes, so that nothing outlives the command.
    if unshare -m true 2>/dev/null; then
        INSIDE=yes exec unshare -m -p -f --kill-child -- "$0" "$directory" "$@"
    fi
fi
trap 'cd /; umount -R -l "$directory"; rmdir /dev/shadowset 2>/dev/null || true' EXIT
mount -t tmpfs -o mode=0755 tmpfs "$directory"
mount --make-private "$directory"
cd "$directory"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$directory/upper,workdir=$directory/work" root
cd root
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount --make-rslave sys
mount --make-rslave dev
mkdir -p dev/shadowset
for name in run tmp srv media dev/shadowset; do
    mkdir -p "$name"
    mount -t tmpfs tmpfs "$name"
done
env -u INSIDE chroot . "$@"
