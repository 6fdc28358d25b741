#!/usr/bin/env bash
# train.sh [OPTIONS OF himl submit]: trains on the cluster $CLUSTER, brings what came out into results/, and ends with
# an error where the job failed or its accuracy is below $LEAST_ACCURACY. Needs himl and jq.
set -euo pipefail

mkdir -p results
himl doctor
himl submit train.py --cluster "$CLUSTER" --wait "$@"
himl download --prefix outputs --output_dir results --flat
himl runs aggregate --json >results/metrics.json
jq -e --argjson least "$LEAST_ACCURACY" \
    '.children | length > 0 and all(.[].last.accuracy; type == "number" and . >= $least)' results/metrics.json ||
    { echo "The accuracy is below $LEAST_ACCURACY, or was not logged." >&2 && exit 1; }
