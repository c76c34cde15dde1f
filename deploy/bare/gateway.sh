#!/bin/sh
# A simulated endpoint and the gateway before it, on this machine's loopback, until Ctrl-C or the end of the gateway.
#   gateway.sh [PROFILE]          by default a100-qwen2.5-3b
set -eu
profile="${1:-a100-qwen2.5-3b}"
sage endpoint simulate --profile "$profile" --port 8001 &
started=$!
trap 'kill $started 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
python3 - <<'WAIT'
import time, urllib.request
for _ in range(300):
    try:
        urllib.request.urlopen("http://127.0.0.1:8001/health", timeout=1)
        break
    except OSError:
        time.sleep(0.1)
else:
    raise SystemExit("gateway.sh: the endpoint did not start within 30 s")
WAIT
sage gateway --endpoint http://127.0.0.1:8001 --port 8900 &
gateway=$!
started="$started $gateway"
wait "$gateway"
