# Sourced by _setup.sh: installs the programs that tests need in addition to a base system.

has_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        ! command -v "$name" >/dev/null || return 0
    done
    return 1
}

# Prints the Debian packages of the missing programs.
lacking_packages() {
    local name
    has_browser || printf '%s\n' chromium fonts-dejavu-core
    for name in curl fish jq zsh; do
        command -v "$name" >/dev/null || printf '%s\n' "$name"
    done
    command -v csh >/dev/null || echo tcsh
    command -v ssh >/dev/null || echo openssh-client
    # A file system in user space plays the disk of several machines.
    [ ! -e /dev/fuse ] || pkg-config --exists fuse3 2>/dev/null || printf '%s\n' libfuse3-dev pkg-config
    # On a system with systemd, installing the SSH server opens the machine to the network.
    [ -x /usr/sbin/sshd ] || { [ -d /run/systemd/system ] && ! is_ci; } || echo openssh-server
}

# Installs them on Debian, as root or, in CI, with a sudo that needs no password. Otherwise, the tests that need them are skipped with a message.
install_programs() {
    local packages=() root=()
    mapfile -t packages < <(lacking_packages)
    if [ ${#packages[@]} = 0 ] || ! command -v apt-get >/dev/null; then
        return 0
    fi
    if [ "$(id -u)" != 0 ]; then
        is_ci && sudo -n true 2>/dev/null || return 0
        root=(sudo -n)
    fi
    echo "Installing ${packages[*]} ..." >&2
    ${root[@]+"${root[@]}"} apt-get update -qq
    ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
}

# GitHub and most other services set CI, Azure Pipelines sets TF_BUILD.
is_ci() {
    [ "${CI:-}" = true ] || [ -n "${TF_BUILD:-}" ]
}
