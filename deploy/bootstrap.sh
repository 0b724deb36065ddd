#!/bin/sh
# Makes what the Makefile's targets need: uv, the virtual environment, a MariaDB server. Called by make.
# For a Debian with Python 3.11 or later and nothing else. Repeats cost next to nothing.
#
#   deploy/bootstrap.sh tools    the virtual environment only
#   deploy/bootstrap.sh demo     and a MariaDB server, unless RESHELVE_MYSQL_URL names one
#   deploy/bootstrap.sh test     and a MariaDB server, a Redis with TLS, strace, curl, Prometheus: the tests need the programs themselves
#   deploy/bootstrap.sh bench    and a MariaDB server, redis-benchmark, rsync, rclone, mkfs.ext4, and the rivals' environments
set -eu
cd "$(dirname "$0")/.."
purpose=${1:-tools}

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

find_uv() {
    command -v uv || { [ -x .uv/bin/uv ] && echo .uv/bin/uv; }
}

# MariaDB makes its system tables with a script that needs my_print_defaults, which Debian keeps with the clients.
has_mysql_server() {
    for name in mariadbd mysqld; do
        for directory in "" /usr/sbin/ /usr/local/sbin/ /usr/libexec/; do
            server=$(command -v "$directory$name") || continue
            case $("$server" --no-defaults --version) in
                *MariaDB*) command -v my_print_defaults >/dev/null && return 0 ;;
                *) return 0 ;;
            esac
        done
    done
    return 1
}

needs_mysql_server() {
    case $purpose in
        demo) [ -z "${RESHELVE_MYSQL_URL:-}${RESHELVE_MYSQL_URL_FILE:-}" ] && ! has_mysql_server ;;
        test | bench) ! has_mysql_server ;;
        *) return 1 ;;
    esac
}

has_prometheus() {
    { command -v promtool && command -v prometheus; } >/dev/null || [ -x .prometheus/usr/bin/promtool ]
}

# Unpacked, not installed: the installed package starts a daemon.
unpack_prometheus() {
    command -v apt-get >/dev/null || die "put prometheus and promtool 2.42 or later on PATH, then repeat"
    say "unpacking Prometheus into .prometheus"
    rm -rf .prometheus
    mkdir .prometheus
    fetch='cd .prometheus && apt-get -qq -o APT::Sandbox::User=root download prometheus'
    if ! (eval "$fetch") 2>/dev/null; then
        become_root "apt-get update"
        # shellcheck disable=SC2086  # as_root is empty or one word
        $as_root apt-get -q update
        (eval "$fetch") || die "apt has no package prometheus: put prometheus and promtool on PATH, then repeat"
    fi
    dpkg-deb -x .prometheus/*.deb .prometheus
    rm .prometheus/*.deb
}

become_root() {
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null; then
        as_root=sudo
    else
        die "run as root, then repeat: $*"
    fi
}

apt_install() {
    command -v apt-get >/dev/null || die "install these with your package manager, then repeat: $*"
    become_root "apt-get install --no-install-recommends $*"
    say "installing $*"
    $as_root apt-get -q update
    # shellcheck disable=SC2086  # as_root is empty or one word
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
}

command -v python3 >/dev/null || die "no python3: install Python 3.11 or later"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$(command -v python3) is $(python3 -V): put Python 3.11 or later first on PATH"

set --
if ! find_uv >/dev/null; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || set -- "$@" python3-venv
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ] || set -- "$@" ca-certificates
fi
if needs_mysql_server; then set -- "$@" mariadb-server-core mariadb-client-core; fi
# The fault suite makes system calls fail, and ends a mover between any two of them.
if [ "$purpose" = test ] && ! command -v strace >/dev/null; then set -- "$@" strace; fi
# The README's tour is run as it is written.
if [ "$purpose" = test ] && ! command -v curl >/dev/null; then set -- "$@" curl; fi
# The Redis of the wheel speaks no TLS. Debian's redis-tools has the server's program (as redis-check-rdb: it goes by its
# name) without starting one, as the package redis-server would.
if [ "$purpose" = test ] && ! command -v redis-server >/dev/null && ! command -v redis-check-rdb >/dev/null; then
    set -- "$@" redis-tools
fi
if [ "$purpose" = bench ]; then
    # With it comes libjemalloc, which the private Redis takes.
    command -v redis-benchmark >/dev/null || set -- "$@" redis-tools
    command -v rsync >/dev/null || set -- "$@" rsync
    command -v rclone >/dev/null || set -- "$@" rclone
    PATH=$PATH:/usr/sbin command -v mkfs.ext4 >/dev/null || set -- "$@" e2fsprogs
    command -v mount >/dev/null || set -- "$@" mount
fi
if [ $# -gt 0 ]; then apt_install "$@"; fi
# Its promtool runs the alerts' tests, and a real one the dashboards' queries.
if [ "$purpose" = test ] && ! has_prometheus; then unpack_prometheus; fi

export UV_PYTHON_DOWNLOADS=never

have_uv() {
    if uv=$(find_uv); then return; fi
    say "installing uv into .uv"
    rm -rf .uv
    python3 -m venv .uv
    .uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.8'
    uv=.uv/bin/uv
}

# make_environment DIRECTORY LOCK: the locked packages alone.
make_environment() {
    "$1/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        rm -rf "$1"
        "$uv" venv --quiet --python "$(command -v python3)" "$1"
    }
    say "installing the locked packages into $1"
    rm -f "$1/bootstrapped"
    "$uv" pip sync --quiet --compile-bytecode --python "$1/bin/python" --require-hashes "$2"
}

# What an environment was made from, and where: it holds absolute paths.
made_from() {
    printf '%s %s %s\n' "$(cat "$@" deploy/bootstrap.sh | sha256sum)" "$(pwd -P)" "$(python3 -V)"
}

is_made() {
    [ -x "$1/bin/python" ] && [ "$(cat "$1/bootstrapped" 2>/dev/null)" = "$2" ]
}

wanted=$(made_from requirements-dev.lock pyproject.toml)
if ! is_made .venv "$wanted"; then
    have_uv
    make_environment .venv requirements-dev.lock
    "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
    printf '%s\n' "$wanted" >.venv/bootstrapped
fi

[ "$purpose" = bench ] || exit 0
for name in rivals rivals-arq; do
    lock=benchmarks/requirements${name#rivals}.lock
    wanted=$(made_from "$lock")
    is_made ".$name" "$wanted" && continue
    have_uv
    make_environment ".$name" "$lock"
    printf '%s\n' "$wanted" >".$name/bootstrapped"
done
