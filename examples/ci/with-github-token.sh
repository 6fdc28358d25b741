#!/usr/bin/env bash
# with-github-token.sh COMMAND...: runs COMMAND with a token of GitHub Actions in the file $AZURE_FEDERATED_TOKEN_FILE.
# Such a token is valid for some minutes only, so the script renews it every $RENEW_SECONDS. Needs curl and jq.
set -euo pipefail
: "${ACTIONS_ID_TOKEN_REQUEST_URL:?is not set. The job needs the permission id-token: write}"
umask 077

# Fetches a token. If that fails, the previous one stays.
fetch() {
    local answer
    answer="$(curl --fail --silent --show-error --retry 3 --header @- \
        "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=api://AzureADTokenExchange" \
        <<<"Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN")" || return
    jq --slurp --join-output '.[0].value // error("GitHub returned no token")' <<<"$answer" >"$AZURE_FEDERATED_TOKEN_FILE.new" &&
        mv "$AZURE_FEDERATED_TOKEN_FILE.new" "$AZURE_FEDERATED_TOKEN_FILE"
}

# Renews the token until this script ends.
renew() {
    for ((seconds = 1; ; seconds++)); do
        sleep 1
        kill -0 "$$" 2>/dev/null || return 0
        ((seconds % ${RENEW_SECONDS:-120})) || fetch || true
    done
}

fetch
renew &
"$@"
