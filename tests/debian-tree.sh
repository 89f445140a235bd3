#!/bin/sh
# Make a Debian tree with a version of RabbitMQ that this machine does not have, in a cache folder, once.
#
#   tests/debian-tree.sh MAJOR
#
# It costs a download of about 100 MB and 370 MB of disk, and needs root. A tree that is there is complete: it gets its
# name at the end. tests/rabbit/debian_tree.py says how it is used.
set -eu
major=$1
case $major in
3) suite=bookworm folder=debian-12 ;;
4) suite=trixie folder=debian-13 ;;
*)
    echo "There is no RabbitMQ '$major' to be had: BROKER is 3 or 4." >&2
    exit 2
    ;;
esac
for installed in /usr/lib/rabbitmq/lib/rabbitmq_server-"$major".*; do
    [ ! -d "$installed" ] || exit 0
done

folder=${XDG_CACHE_HOME:-$HOME/.cache}/mxworker/$folder
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9 # a second run waits for the first one
[ ! -d "$folder" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "RabbitMQ $major runs from a Debian tree ($folder), which only root can make and use." >&2
    exit 1
fi
PATH="$PATH:/usr/sbin:/sbin"
command -v debootstrap >/dev/null || "$(dirname "$0")/apt-install.sh" debootstrap

part="$folder.part"
remove_part() {
    rm -rf "$part"
}
remove_part
trap remove_part EXIT
trap 'exit 1' HUP INT TERM
echo "Making a Debian tree ($suite) with RabbitMQ $major in $folder, once ..."
log="$folder.log"
if ! debootstrap --variant=minbase --include=rabbitmq-server "$suite" "$part" >"$log" 2>&1 9>&-; then
    tail -n 20 "$log" >&2
    echo "debootstrap failed; all it said is in $log" >&2
    exit 1
fi
rm -f "$log"
mv "$part" "$folder"
