#!/usr/bin/env bash
# with-github-token.sh COMMAND...: runs it with a token of GitHub Actions in the file $AZURE_FEDERATED_TOKEN_FILE, made
# anew every $RENEW_SECONDS as long as it runs: such a token is good for some minutes only. Needs curl and jq.
set -euo pipefail
: "${ACTIONS_ID_TOKEN_REQUEST_URL:?is set where the job has the permission id-token: write}"
umask 077

fetch() { # leaves the token that is there where no new one comes
    local answer
    answer="$(curl --fail --silent --show-error --retry 3 --header @- \
        "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=api://AzureADTokenExchange" \
        <<<"Authorization: Bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN")" || return
    jq --slurp --join-output '.[0].value // error("GitHub gave no token")' <<<"$answer" >"$AZURE_FEDERATED_TOKEN_FILE.new" &&
        mv "$AZURE_FEDERATED_TOKEN_FILE.new" "$AZURE_FEDERATED_TOKEN_FILE"
}

renew() { # until this script has ended
    for ((seconds = 1; ; seconds++)); do
        sleep 1
        kill -0 "$$" 2>/dev/null || return 0
        ((seconds % ${RENEW_SECONDS:-120})) || fetch || true
    done
}

fetch
renew &
"$@"
