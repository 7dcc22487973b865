#!/bin/sh
# A private PostgreSQL server for tests: own data, loopback and a unix socket, trust.
#   support_postgres.sh start DIR [OPTION=VALUE ...]   makes it in DIR (new), prints its URL
#   support_postgres.sh stop DIR                       ends it and removes DIR
# Exit status 77 when PostgreSQL is not installed: the caller skips, and says so.
set -eu

find_bin() {
    for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) /usr/bin /usr/local/bin; do
        if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ]; then
            echo "$dir"
            return 0
        fi
    done
    return 1
}

# PostgreSQL refuses to run as root: use whoever owns nothing else.
as_owner() {
    if [ "$(id -u)" = 0 ]; then
        runuser -u "$owner" -- "$@"
    else
        "$@"
    fi
}

command=${1:?start or stop}
dir=${2:?a directory}
bin=$(find_bin) || {
    echo "support_postgres.sh: PostgreSQL is not installed" >&2
    exit 77
}
owner=postgres
id -u "$owner" >/dev/null 2>&1 || owner=nobody

case $command in
start)
    shift 2
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown "$owner" "$dir"
    cd "$dir"
    as_owner "$bin/initdb" -D "$dir/data" -U drover --auth=trust -E UTF8 --locale=C --no-sync \
        >"$dir/initdb.log" 2>&1 || {
        cat "$dir/initdb.log" >&2
        exit 1
    }
    for option in "$@"; do
        echo "${option%%=*} = '${option#*=}'" >>"$dir/data/postgresql.conf"
    done
    port=$(od -An -N2 -tu2 /dev/urandom)
    tries=0
    # Another server may have the port: try the next ones.
    while :; do
        port=$((20000 + port % 12000))
        if as_owner "$bin/pg_ctl" -D "$dir/data" -w -t 30 -l "$dir/log" \
            -o "-p $port -h 127.0.0.1 -k $dir -c max_connections=200" start >/dev/null 2>&1; then
            break
        fi
        tries=$((tries + 1))
        if [ "$tries" -ge 10 ]; then
            tail -n 20 "$dir/log" >&2
            exit 1
        fi
        port=$((port + 1))
    done
    echo "postgres://drover@127.0.0.1:$port/postgres"
    ;;
stop)
    cd /
    as_owner "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
    ;;
*)
    echo "support_postgres.sh: start or stop" >&2
    exit 2
    ;;
esac
