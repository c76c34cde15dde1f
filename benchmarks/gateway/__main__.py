"""``python -m benchmarks.gateway NAME...``: prints what was measured and the bar beside it."""

from __future__ import annotations

import sys
from importlib import import_module

import uvloop

from sage.cli.limits import allow_open_files

NAMES = ("tax", "crowd", "rate", "fairness", "priority", "overload", "hostile", "prefix")
MODULES = {"crowd": "tax", "fairness": "sharing", "priority": "sharing"}


def main() -> int:
    names = sys.argv[1:] or list(NAMES)
    if unknown := set(names) - set(NAMES):
        print(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    allow_open_files()
    for name in names:
        module = import_module(f"benchmarks.gateway.{MODULES.get(name, name)}")
        uvloop.run(getattr(module, name)())
    return 0


if __name__ == "__main__":
    sys.exit(main())
