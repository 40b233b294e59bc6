#!/bin/sh
# Installs branchmig for a server, or takes it away again: `make install`, `make uninstall`.
#
#   PREFIX   where to (/usr/local); units go to /etc where systemd would not look below PREFIX
#   DESTDIR  a folder that stands for / while a package is made; then nothing is started or created
#   PYTHON   the interpreter (the system's own); it must be one that the service can see
#   EXTRAS   which drivers come along (all); "" for SQLite alone, or postgresql,mysql
#
# The program has a virtual environment of its own, PREFIX/lib/branchmig. A new one is made beside
# the old and takes its place when it is whole: an installation that fails has changed nothing.

set -eu
umask 022
# What others set for their own Python is none of this one.
unset PYTHONPATH PYTHONHOME

PREFIX=${PREFIX:-/usr/local} DESTDIR=${DESTDIR:-} EXTRAS=${EXTRAS-all}
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "$1" >&2
    [ $# -lt 2 ] || echo "Hint: $2" >&2
    exit 1
}

case $PREFIX$DESTDIR in
    *[[:space:]]*) fail "PREFIX and DESTDIR cannot hold spaces: a script's first line may not" ;;
esac
case $PREFIX in
    /?*) PREFIX=${PREFIX%/} ;;
    *) fail "PREFIX=$PREFIX is not absolute" "make install PREFIX=/opt/branchmig" ;;
esac
case $DESTDIR in
    '') ;;
    /*) DESTDIR=${DESTDIR%/} ;;
    *) fail "DESTDIR=$DESTDIR is not absolute" "make install DESTDIR=\"\$PWD/$DESTDIR\"" ;;
esac

# Below these two systemd and its companions look by themselves.
case $PREFIX in
    /usr | /usr/local) system=$PREFIX/lib ;;
    *) system=/etc ;;
esac
environment=$PREFIX/lib/branchmig
program=$PREFIX/bin/branchmig
units=$system/systemd/system
documents=$PREFIX/share/doc/branchmig
settings=/etc/branchmig/branchmig.toml

# Every single file that an installation has, beside the environment and the documents.
sysusers=$system/sysusers.d/branchmig.conf
tmpfiles=$system/tmpfiles.d/branchmig.conf
manual=$PREFIX/share/man/man1/branchmig.1
bash=$PREFIX/share/bash-completion/completions/branchmig
zsh=$PREFIX/share/zsh/site-functions/_branchmig
fish=$PREFIX/share/fish/vendor_completions.d/branchmig.fish

on_this_host() { [ -z "$DESTDIR" ] && [ "$(id -u)" -eq 0 ]; }
systemd_runs() { on_this_host && [ -d /run/systemd/system ]; }

# Installing ---------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
makes_environments() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

choose_python() {
    if [ -z "${PYTHON:-}" ]; then
        # The system's own before others on the path, which are often below somebody's home.
        for PYTHON in /usr/bin/python3 python3; do
            ! { is_new_enough "$PYTHON" && makes_environments "$PYTHON"; } || break
        done
    fi
    command -v "$PYTHON" >/dev/null || fail "$PYTHON is not there" \
        "install Python 3.11 or newer, or name one: make install PYTHON=/path/to/python3.11"
    is_new_enough "$PYTHON" || fail \
        "$("$PYTHON" -V 2>&1) is too old: branchmig needs Python 3.11 or newer" \
        "name one: make install PYTHON=/path/to/python3.11"
    makes_environments "$PYTHON" ||
        fail "this Python cannot make virtual environments" "apt install python3-venv"
    PYTHON=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    case $PYTHON in
        /home/* | /root/* | /run/user/*)
            fail "$PYTHON is below a home, which the service cannot see (ProtectHome=)" \
                "apt install python3-venv, or name one: make install PYTHON=/path/to/python3.11" ;;
    esac
}

check_target() {
    case $PREFIX in
        /home/* | /root/* | /run/user/*)
            fail "PREFIX=$PREFIX is below a home, which the service cannot see (ProtectHome=)" \
                "make install PREFIX=/opt/branchmig; for yourself alone: pip install ." ;;
    esac
    for folder in "$DESTDIR${environment%/*}" "$DESTDIR$units" "$DESTDIR${settings%/*}"; do
        { mkdir -p "$folder" && [ -w "$folder" ]; } 2>/dev/null ||
            fail "$folder cannot be written by $(id -un)" \
                "run it as root, or into a folder of your own: make install DESTDIR=/tmp/package"
    done
}

make_environment() {
    new=$DESTDIR$environment.new
    rm -rf "$new"
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    "$PYTHON" -m venv "$new"
    "$new/bin/python" -m pip --disable-pip-version-check install --quiet --root-user-action=ignore \
        --no-compile "$here/..${EXTRAS:+[$EXTRAS]}" ||
        fail "the libraries of branchmig could not be installed, see above; nothing was changed"
    # It was made under another path than it will have.
    for script in "$new"/bin/* "$new/pyvenv.cfg"; do
        if [ -f "$script" ] && [ ! -L "$script" ] && grep -qIF "$new" "$script"; then
            sed -i "s|$new|$environment|g" "$script"
        fi
    done
    # The service cannot write here, and would compile everything anew each time. Some libraries
    # bring templates that are no Python yet.
    "$new/bin/python" -m compileall -q -s "$new" -p "$environment" "$new/lib" >/dev/null || true
}

# What a tick imports must not change under it: its end is waited for.
wait_for_ticks() {
    # Of a crontab, which holds this lock while it works.
    lock=/var/lib/branchmig/tick.lock
    if on_this_host && [ -e "$lock" ] && command -v flock >/dev/null && ! flock -n "$lock" true; then
        echo "waiting for the end of a tick ($lock)"
        flock "$lock" true
    fi
    systemd_runs || return 0
    told=
    while systemctl list-units --no-legend --plain --state=activating 'branchmig*.service' |
        grep -q . ; do
        [ -n "$told" ] || echo "waiting for the end of a tick (systemctl list-units 'branchmig*')"
        told=yes
        sleep 1
    done
}

swap_environment() {
    place=$DESTDIR$environment
    rm -rf "$place.old"
    trap '' HUP INT TERM  # not between the two
    [ ! -e "$place" ] || mv "$place" "$place.old"
    mv "$place.new" "$place"
    trap - EXIT HUP INT TERM
    rm -rf "$place.old"
    mkdir -p "$DESTDIR$PREFIX/bin"
    ln -sfn ../lib/branchmig/bin/branchmig "$DESTDIR$program"
}

# put MODE FROM TO: the file, with this installation's paths in it.
put() {
    mkdir -p "$DESTDIR${3%/*}"
    sed "s|/usr/local/bin/branchmig|$program|g" "$2" >"$DESTDIR$3.new"
    chmod "$1" "$DESTDIR$3.new"
    mv "$DESTDIR$3.new" "$DESTDIR$3"
}

# generate TO COMMAND...: a file from what a command prints.
generate() {
    mkdir -p "$DESTDIR${1%/*}"
    to=$DESTDIR$1
    shift
    "$@" >"$to.new"
    chmod 644 "$to.new"
    mv "$to.new" "$to"
}

install_all() {
    choose_python
    check_target
    make_environment
    wait_for_ticks
    swap_environment
    python=$DESTDIR$environment/bin/python
    for unit in "$here"/systemd/*.service "$here"/systemd/*.timer; do
        put 644 "$unit" "$units/${unit##*/}"
    done
    put 644 "$here/systemd/sysusers.conf" "$sysusers"
    put 644 "$here/systemd/tmpfiles.conf" "$tmpfiles"
    for document in "$here/systemd/drop-in.conf.example" "$here/crontab.example" \
        "$here/../README.md" "$here/../CHANGELOG.md"; do
        put 644 "$document" "$documents/${document##*/}"
    done
    generate "$documents/branchmig.toml" sed \
        's|^url = "sqlite:///headoffice.db"|url = "sqlite:////var/lib/branchmig/headoffice.db"|' \
        "$here/../branchmig/settings.toml"
    generate "$manual" "$python" -I "$here/manual.py"
    generate "$bash" env _BRANCHMIG_COMPLETE=source_bash "$python" -I -m branchmig
    generate "$zsh" env _BRANCHMIG_COMPLETE=source_zsh "$python" -I -m branchmig
    generate "$fish" env _BRANCHMIG_COMPLETE=source_fish "$python" -I -m branchmig
    if [ ! -e "$DESTDIR$settings" ]; then
        mkdir -p "$DESTDIR${settings%/*}"
        cp "$DESTDIR$documents/branchmig.toml" "$DESTDIR$settings"
        chmod 640 "$DESTDIR$settings"
    fi
    make_known
}

make_known() {
    if on_this_host && command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$sysusers"
        systemd-tmpfiles --create "$tmpfiles"
    fi
    ! systemd_runs || systemctl daemon-reload
    echo "branchmig is in $DESTDIR$program. What comes next:"
    [ -z "$DESTDIR" ] || echo "  systemd-sysusers; systemd-tmpfiles --create    # where it is unpacked"
    echo "  \$EDITOR $settings"
    # Where systemd-tmpfiles has not given it to the group.
    ! on_this_host || [ -n "$(find "$settings" -group branchmig 2>/dev/null)" ] ||
        echo "  chgrp branchmig $settings    # once the account is there"
    echo "  runuser -u branchmig -- $program init"
    echo "  systemctl enable --now branchmig.timer         # or see $documents/crontab.example"
}

# Taking away --------------------------------------------------------------------------------------

uninstall_all() {
    [ -e "$DESTDIR$environment" ] || [ -L "$DESTDIR$program" ] ||
        fail "there is no branchmig in $DESTDIR$PREFIX" "name the PREFIX that it was installed with"
    [ -w "$DESTDIR$PREFIX/lib" ] || fail "$DESTDIR$PREFIX cannot be written by $(id -un)" "run it as root"
    if systemd_runs; then
        for timer in branchmig.timer $(systemctl list-units --all --no-legend --plain 'branchmig@*.timer' |
            cut -d' ' -f1); do
            systemctl --quiet disable --now "$timer" || true
        done
        wait_for_ticks
    fi
    for unit in "$here"/systemd/*.service "$here"/systemd/*.timer; do
        rm -f "$DESTDIR$units/${unit##*/}"
    done
    rm -f "$DESTDIR$program" "$DESTDIR$sysusers" "$DESTDIR$tmpfiles" "$DESTDIR$manual" \
        "$DESTDIR$bash" "$DESTDIR$zsh" "$DESTDIR$fish"
    rm -rf "$DESTDIR$environment" "$DESTDIR$environment.new" "$DESTDIR$environment.old" \
        "$DESTDIR$documents"
    ! systemd_runs || systemctl daemon-reload
    echo "branchmig is gone from $DESTDIR$PREFIX. Left as they are: /etc/branchmig with the settings," \
        "/var/lib/branchmig with HeadOffice and branches on SQLite, /var/log/branchmig," \
        "and the user branchmig."
}

case ${1:-} in
    install) install_all ;;
    uninstall) uninstall_all ;;
    *) fail "usage: $0 install|uninstall" ;;
esac
