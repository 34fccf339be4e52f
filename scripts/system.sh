#!/bin/sh
# Makes sure of what the tests need and only the system has: Java 17 or newer, Maven and Chromium. Installs with apt where it may.
set -eu

missing() {
    java_version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
    [ "${java_version:-0}" -ge 17 ] || echo java
    command -v mvn >/dev/null || echo maven
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || echo chromium
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_with_apt() {
    command -v apt-get >/dev/null && as_root true 2>/dev/null || return 0
    echo "Installing with apt what the tests need: $*."
    as_root apt-get update -qq || return 0
    for name in "$@"; do # one by one: what apt does not have keeps nothing else away
        if [ "$name" = java ]; then name=$(newest_java); fi
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$name" >/dev/null || true
    done
}

newest_java() {
    for release in 21 17; do
        apt-cache show "openjdk-$release-jre-headless" >/dev/null 2>&1 && break
    done
    echo "openjdk-$release-jre-headless"
}

names=$(missing)
[ -z "$names" ] && exit 0
# shellcheck disable=SC2086
install_with_apt $names
names=$(missing)
[ -z "$names" ] && exit 0
echo "The tests also need $(echo $names | sed 's/ /, /g; s/java/Java 17 or newer (java)/; s/maven/Maven (mvn)/; s/chromium/Chromium (chromium)/'): please install what is missing." >&2
exit 2
