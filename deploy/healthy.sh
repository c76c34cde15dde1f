#!/bin/sh
# Is this container well? SAGE_HEALTH_URL: what has to answer 200; without it, the Ray cluster at RAY_ADDRESS has to answer.
set -eu
if [ -n "${SAGE_HEALTH_URL:-}" ]; then
    exec python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)' "$SAGE_HEALTH_URL"
fi
exec ray health-check --address "${RAY_ADDRESS:-127.0.0.1:6379}"
