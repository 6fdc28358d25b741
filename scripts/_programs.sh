# Sourced by _setup.sh: the programs that tests need beyond a base system's.

has_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        ! command -v "$name" >/dev/null || return 0
    done
    return 1
}

# Prints the Debian packages of the programs that tests need beyond a base system's and that are not there.
lacking_packages() {
    local name
    has_browser || printf '%s\n' chromium fonts-dejavu-core
    for name in curl fish jq zsh; do
        command -v "$name" >/dev/null || printf '%s\n' "$name"
    done
    command -v ssh >/dev/null || echo openssh-client
    # Where systemd runs, installing it opens the machine to the network
    [ -x /usr/sbin/sshd ] || { [ -d /run/systemd/system ] && ! is_ci; } || echo openssh-server
}

# Installs those on Debian: as root, or in CI as who may become root without being asked; elsewhere the tests that need them are skipped and say so.
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

# As GitHub, most others, and Azure Pipelines say it.
is_ci() {
    [ "${CI:-}" = true ] || [ -n "${TF_BUILD:-}" ]
}
