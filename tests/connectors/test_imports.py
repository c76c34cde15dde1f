"""What is imported when."""

from __future__ import annotations

import subprocess
import sys

from private_mount import SOURCE


def test_importing_connectors_imports_nothing_heavy() -> None:
    script = """
import sys
import sage.connectors, sage.codec
heavy = {"msgspec", "sqlite3", "pyarrow", "numpy", "gzip", "asyncio"}
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_parquet_says_what_to_install() -> None:
    script = """
import sys
sys.modules["pyarrow"] = None
from sage.connectors import Parquet
from sage.errors import MissingDependency
for act in (Parquet("x").check, Parquet("x").sink().check):
    try:
        act()
    except MissingDependency as error:
        print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    text = "E230 reading and writing Parquet needs the package 'pyarrow'. Try: pip install pyarrow, "
    text += "or SAGE with its extra [parquet]"
    assert result.stdout.splitlines() == [text, text]
