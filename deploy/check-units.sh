#!/bin/sh
# Has systemd judge the units of this folder: that it understands every line, and that no service is
# exposed more than 2.0 (systemd-analyze(1): verify, security). Where there is no systemd-analyze,
# or one too old to judge files, it says so and is content.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
if ! systemd-analyze security --help 2>/dev/null | grep -q -e --offline; then
    echo "the units are not checked: there is no systemd-analyze of 250 or newer here" >&2
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The program need not be installed for that, nor need a template have an instance yet.
for unit in "$here"/systemd/*.service "$here"/systemd/*.timer; do
    name=${unit##*/}
    sed 's|/usr/local/bin/branchmig|/bin/true|' "$unit" >"$folder/$name"
done
cd "$folder"
failed=
for name in *; do
    instance=$(echo "$name" | sed 's/@\./@instance./')
    # --man=no: the manual page is not installed either.
    SYSTEMD_UNIT_PATH="$folder:" systemd-analyze verify --man=no --recursive-errors=no "./$instance" ||
        failed="$failed $name"
    case $name in
        *.service)
            systemd-analyze security --offline=true --threshold=20 --no-pager "./$instance" >report 2>&1 || {
                cat report >&2
                failed="$failed $name"
            }
            rm -f report ;;
    esac
done
[ -z "$failed" ] || {
    echo "systemd finds fault with$failed" >&2
    exit 1
}
