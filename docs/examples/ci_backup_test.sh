#!/bin/sh
# Try backup code against applications that take part, refuse and fail, in a few seconds, and leave nothing behind.
# Needs root, /dev/fuse and loop devices, as a privileged container in CI has them; touches nothing of the host's own
# Shadowset. BACKUP is the command under test: it reads $work/data and writes $work/backup.tar.
set -eu

work=$(mktemp -d /var/tmp/backup-test.XXXXXX)
run=$(mktemp -d /tmp/backup-test.XXXXXX)
export SHADOWSET_RUNTIME_DIR="$run" SHADOWSET_STATE_DIR="$work/state" SHADOWSET_CONFIG_DIR="$work/etc"
BACKUP=${BACKUP:-"tar -cf $work/backup.tar -C $work/data ."}

clean() {
    [ -z "${writer:-}" ] || { kill "$writer" && wait "$writer"; } || true
    umount "$work/data" 2>/dev/null || true
    shadowset volume detach data >/dev/null 2>&1 || true
    shadowset volume remove data --force >/dev/null 2>&1 || true
    [ -z "${service:-}" ] || { kill "$service" && wait "$service"; } || true
    umount "$run/devices" 2>/dev/null || true
    rm -rf "$work" "$run"
}
trap clean EXIT

wait_for() { # COMMAND WORD: until the command's output has the word
    n=0
    until $1 2>/dev/null | grep -q "$2"; do
        n=$((n + 1))
        [ $n -lt 100 ] || { echo "waited in vain for $2: $(tail -n 3 "$work/log")" >&2; exit 1; }
        sleep 0.1
    done
}

# a coordinator and a volume of its own
mkdir -p "$work/etc" "$work/data"
shadowset serve 2>"$work/log" &
service=$!
wait_for "shadowset status" running
truncate -s 64M "$work/image"
mkfs.ext4 -q "$work/image"
shadowset volume add data "$work/image" >/dev/null
shadowset volume attach data >/dev/null
mount "$run/by-name/data" "$work/data"
echo "order 1" >"$work/data/orders"

start_writer() { # [FAILURE]: an application with the component "orders", which fails as it is told
    cat >"$work/writer.toml" <<END
writer_name = "Orders"
[restore_method]
method = "RESTORE_IF_CAN_REPLACE"
[[component]]
component_type = "filegroup"
component_name = "orders"
component_file = [{ path = "$work/data", filespec = "orders" }]
${1:-}
END
    shadowset-test-writer "$work/writer.toml" >>"$work/log" 2>&1 &
    writer=$!
    wait_for "shadowset writers" Orders
}

stop_writer() {
    kill "$writer" && wait "$writer" || true
    writer=
    wait_for "shadowset writers" "No writer"
}

# 1. all goes well: the backup holds what was there at the cut
start_writer
shadowset run -- $BACKUP >/dev/null
tar -xOf "$work/backup.tar" ./orders | grep -q "order 1"
stop_writer

# 2. the application is busy twice: trying again helps
start_writer '[[fail_event]]
writer_event = "Freeze"
retryable = true
num_failures = 2'
shadowset create data --tries 3 --retry-wait 0s >/dev/null
shadowset delete --all --yes >/dev/null
stop_writer

# 3. the application refuses for good: the backup must fail, and must not run the program or leave a copy
start_writer '[[fail_event]]
writer_event = "Freeze"
retryable = false'
rm "$work/backup.tar"
if shadowset run -- $BACKUP 2>"$work/refusal"; then
    echo "the backup succeeded although the application had refused" >&2
    exit 1
fi
grep -q Orders "$work/refusal"
[ ! -e "$work/backup.tar" ]
shadowset list | grep -q "no shadow copies"
shadowset explain last | grep -q "was not made"
stop_writer

echo "the backup code does what it should"
