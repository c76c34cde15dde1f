#!/bin/sh
# Make the secrets of the lab below deploy/secrets, once: Ray's token, the endpoint's key, the gateway's key and settings.
#   secrets.sh [FOLDER]
set -eu
umask 077
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:-$here/secrets}"
if [ -e "$folder" ]; then
    echo "secrets.sh: $folder is there already; remove it for new ones" >&2
    exit 1
fi
mkdir -p "$folder"
python3 - "$folder" "$here/gateway.toml" <<'MAKE'
import hashlib, pathlib, secrets, sys

folder, settings = map(pathlib.Path, sys.argv[1:])
for name in ("ray_token", "endpoint_key", "gateway_key"):
    (folder / name).write_text(secrets.token_hex(32))
digest = hashlib.sha256((folder / "gateway_key").read_bytes()).hexdigest()
key = f'\n[[key]]\nname = "lab"\nsha256 = "{digest}"\nscopes = ["infer", "admin"]\n'
(folder / "gateway.toml").write_text(settings.read_text() + key)
MAKE
chmod 0711 "$folder"
chmod 0444 "$folder"/*  # a container reads them as another user; nobody but root and you can list the folder
echo "$folder"
