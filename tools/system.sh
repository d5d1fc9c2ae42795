#!/bin/sh
# What tests need of the system itself, because no wheel brings it: a real LDAP server, a real exporter and
# collector of flows, network namespaces, and a look at what a process syncs.
# Installs what is missing where it can. Where it cannot it says so, and the tests that need it fail.
set -eu

missing=""
[ -x /usr/sbin/slapd ] || missing="$missing slapd"
[ -x /usr/bin/ldapadd ] || missing="$missing ldap-utils"
[ -x /usr/sbin/softflowd ] || missing="$missing softflowd"
[ -x /usr/bin/nfcapd ] || missing="$missing nfdump"
[ -x /sbin/ip ] || [ -x /usr/sbin/ip ] || [ -x /bin/ip ] || missing="$missing iproute2"
[ -x /usr/bin/strace ] || missing="$missing strace"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "The tests need the system's packages$missing: install them; what needs them fails until then" >&2
    exit 0
fi

# A package may not start a daemon of its own: tests start theirs, on loopback, with a directory of its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

install() {
    # shellcheck disable=SC2086 -- a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing >/dev/null 2>&1
}

echo "Installing$missing for the tests"
if ! install && ! { apt-get update >/dev/null 2>&1 && install; }; then
    echo "apt-get cannot install$missing: install them by hand; what needs them fails until then" >&2
fi
