#!/bin/sh
# Installs the hawser command line for this user, without root:
#
#     curl -fsSL URL/install.sh | HAWSER_INSTALL_BASE_URL=URL sh
#
# HAWSER_INSTALL_BASE_URL  where the files of a release are (what `make dist` makes), an https:// URL
# HAWSER_INSTALL_DIR       where to install; by default ~/.local/bin
#
# It downloads hawser-OS-ARCHITECTURE.tar.gz and its .sha256, verifies one by the other, and moves the program into place
# as a whole. Whatever goes wrong before that, nothing is installed and what was there stays.
set -eu

# hawser has no public place for releases yet. Whoever publishes some puts its URL here.
DEFAULT_BASE_URL=

# All of it is a function, so that a download that breaks off in the middle runs nothing.
main() {
    base_url=${HAWSER_INSTALL_BASE_URL:-$DEFAULT_BASE_URL}
    base_url=${base_url%/}
    case $base_url in
        https://*) ;;
        '') fail "set HAWSER_INSTALL_BASE_URL to the https:// URL of the folder that holds the release" ;;
        *) fail "HAWSER_INSTALL_BASE_URL must be an https:// URL, not $base_url" ;;
    esac
    directory=${HAWSER_INSTALL_DIR:-${HOME:?is not set, so set HAWSER_INSTALL_DIR}/.local/bin}
    archive=hawser-$(platform).tar.gz

    mkdir -p "$directory" 2>/dev/null || fail "cannot make $directory; set HAWSER_INSTALL_DIR to a folder of yours"
    { [ -d "$directory" ] && [ -w "$directory" ]; } ||
        fail "cannot write to $directory; set HAWSER_INSTALL_DIR to a folder of yours"
    need tar
    work=$(mktemp -d) || fail "cannot make a temporary folder"
    new=$directory/.hawser.new.$$
    trap 'rm -rf "$work" "$new"' EXIT
    trap 'exit 1' HUP INT TERM

    say "downloading $base_url/$archive"
    download "$base_url/$archive" "$work/$archive"
    download "$base_url/$archive.sha256" "$work/$archive.sha256"
    verify "$work/$archive" "$work/$archive.sha256"

    tar -xzf "$work/$archive" -C "$work" hawser || fail "$archive holds no program hawser"
    chmod 755 "$work/hawser"
    version=$("$work/hawser" version --client --short) || fail "the downloaded program does not run on this machine"
    # Beside its place first, for only within a file system is moving one step.
    { cp "$work/hawser" "$new" && mv -f "$new" "$directory/hawser"; } || fail "cannot write $directory/hawser"

    say "installed hawser $version as $directory/hawser"
    case :${PATH:-}: in
        *:"$directory":*) hawser=hawser ;;
        *)
            hawser=$directory/hawser
            say "$directory is not in your PATH; add it with: export PATH=\"$directory:\$PATH\""
            ;;
    esac
    say ""
    say "next:"
    say "  $hawser check --pre                       # is the cluster ready for a mesh?"
    say "  $hawser install | kubectl apply -f -      # install it"
    say "  $hawser completion --help                 # completions for bash, zsh and fish"
}

# What releases call this machine.
platform() {
    system=$(uname -s) machine=$(uname -m)
    case $system-$machine in
        Linux-x86_64 | Linux-amd64) echo linux-amd64 ;;
        Linux-aarch64 | Linux-arm64) echo linux-arm64 ;;
        *) fail "there is no hawser for $system on $machine; it is built for Linux on x86_64 and aarch64" ;;
    esac
}

# Stalls for a minute, or ten minutes in all, are a failure.
download() {
    if has curl; then
        curl --proto '=https' --tlsv1.2 --fail --silent --show-error --location \
            --connect-timeout 30 --speed-time 60 --speed-limit 1 --max-time 600 --output "$2" "$1" ||
            fail "cannot download $1"
    elif has wget; then
        wget --quiet --https-only --timeout=60 --tries=1 -O "$2" "$1" || fail "cannot download $1"
    else
        fail "needs curl or wget"
    fi
}

verify() {
    # The file holds the digest, and behind it perhaps a name.
    read -r wanted _ <"$2" || [ -n "${wanted:-}" ] || fail "the checksum is empty"
    if has sha256sum; then
        found=$(sha256sum <"$1")
    elif has shasum; then
        found=$(shasum -a 256 <"$1")
    else
        fail "needs sha256sum or shasum to verify the download"
    fi
    found=${found%% *}
    [ "$found" = "$wanted" ] || fail "the checksum of the download is $found, and should be $wanted; nothing was installed"
}

need() { has "$1" || fail "needs $1"; }
has() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

main "$@"
