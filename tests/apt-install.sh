#!/bin/sh
# Install a Debian package when it may be done without asking, and let none of its services run.
#
#   tests/apt-install.sh PACKAGE [UNIT ...]
#
# A package that brings a service starts it at once, and at every boot. policy-rc.d (see invoke-rc.d(8)) forbids the
# first while we install; the UNITs named are disabled, which prevents the second.
set -eu
package=$1
shift

if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    as_root=no
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null; then
    echo "The package '$package' is missing and cannot be installed from here." >&2
    echo "  On Debian or Ubuntu:  sudo apt-get install --no-install-recommends $package" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
policy_is_ours=
remove_policy() {
    [ -z "$policy_is_ours" ] || $as_root rm -f "$policy"
}
if [ ! -e "$policy" ]; then
    policy_is_ours=yes
    trap remove_policy EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi

install_package() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"
}
log=$(mktemp)
echo "Installing the package '$package' ..."
if ! install_package >"$log" 2>&1 && ! { $as_root apt-get update -qq && install_package; } >>"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
if [ $# -gt 0 ] && command -v systemctl >/dev/null; then
    $as_root systemctl --quiet disable "$@" >/dev/null 2>&1 || echo "Could not disable: $*" >&2
fi
