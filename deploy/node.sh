#!/bin/sh
# A node of the lab's Ray cluster, in the foreground: it ends with this process, and nothing else does.
#   node.sh head ADDRESS          the head, which listens at ADDRESS
#   node.sh worker HEAD:PORT      a node that joins it; CPUS=N says how many processors it counts
# Every node needs the same token: RAY_AUTH_TOKEN_PATH names its file, by default ~/.ray/auth_token.
set -eu
usage() {
    echo "usage: node.sh head ADDRESS | worker HEAD:PORT" >&2
    exit 2
}
[ $# -eq 2 ] || usage
token="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [ ! -s "$token" ]; then
    echo "node.sh: no token in $token: token.sh makes one, and every node needs the same" >&2
    exit 3
fi
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"
cpus="${CPUS:-$(nproc)}"
case "$1" in
head) set -- --head --node-ip-address="$2" --port=6379 --include-dashboard=false ;;
worker) set -- --address="$2" ;;
*) usage ;;
esac
exec ray start "$@" --num-cpus="$cpus" --disable-usage-stats --block
