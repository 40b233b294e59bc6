#!/bin/sh
# Installs the database servers that tests start for themselves, the drivers that no Python package
# brings, and systemd, where they are missing and root runs this on Debian. The system's own services
# of those servers are neither started nor enabled. Without a server, a driver or systemd its tests
# are left out and say so; under CI=true that fails the run.

set -u

is_there() { command -v "$1" >/dev/null 2>&1; }

packages=
services=
if ! is_there initdb && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    packages="postgresql" services="postgresql"
fi
if ! { is_there mariadbd || [ -x /usr/sbin/mariadbd ]; } || ! is_there mariadb-install-db; then
    packages="$packages mariadb-server" services="$services mariadb"
fi
# The ODBC driver manager, FreeTDS, and what Microsoft's driver is linked with.
if ! is_there odbcinst || ! odbcinst -q -d -n FreeTDS >/dev/null 2>&1 ||
    ! ldconfig -p | grep -q libgssapi_krb5.so.2
then
    packages="$packages unixodbc tdsodbc libkrb5-3 libgssapi-krb5-2 libltdl7"
fi
# The units are run by a systemd of their own, in namespaces; nothing of it runs here.
if ! [ -x /lib/systemd/systemd ] || ! is_there systemd-analyze ||
    ! ls /lib/*/libnss_systemd.so.2 >/dev/null 2>&1
then
    packages="$packages systemd libnss-systemd"
fi
# What is installed for such a systemd runs with the system's own Python.
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
# A clock that tests set.
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || packages="$packages libfaketime"
if [ -z "$packages" ] || [ "$(id -u)" -ne 0 ] || [ ! -e /etc/debian_version ] || ! is_there apt-get
then
    exit 0
fi

# What Debian's packages ask before they start a service: 101 is "no".
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

echo "installing$(printf ' %s' $packages) for the tests"
export DEBIAN_FRONTEND=noninteractive
if apt-get update -qq && apt-get install -qq --yes --no-install-recommends $packages >/dev/null; then
    [ -z "$services" ] || ! is_there systemctl || systemctl --quiet disable $services >/dev/null 2>&1 || true
else
    echo "$packages: not to be had; the tests that need it are left out" >&2
fi
exit 0
