#!/bin/sh
# Make the token of a Ray cluster, once; copy the file to every other machine (scp -p).
#   token.sh [FILE]               by default ~/.ray/auth_token
set -eu
umask 077
file="${1:-$HOME/.ray/auth_token}"
if [ -e "$file" ]; then
    echo "token.sh: $file is there already; remove it first if all nodes shall have a new one" >&2
    exit 1
fi
mkdir -p "$(dirname "$file")"
python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$file"
echo "$file"
