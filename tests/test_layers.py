"""The layers of the house: who may import whom, and what stands in one place only."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import sage

HOUSE = Path(sage.__file__).parent
GROUND = (
    "errors", "record", "codec_types", "codec", "clock", "metrics", "setting_values", "settings", "private",
    "processes", "version",
)  # fmt: skip
"""The files at the bottom; each may import those that stand before it in `GROUND_MAY`."""
GROUND_MAY: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "clock": set(),
    "record": {"errors"},
    "codec_types": {"errors"},
    "codec": {"errors", "codec_types"},
    "metrics": {"errors", "clock"},
    "setting_values": {"errors"},
    "settings": {"errors", "setting_values"},
    "private": set(),
    "processes": set(),
}
MAY: dict[str, set[str]] = {
    "queues": set(),
    "flow": set(),
    "scheduling": set(),
    "llm": {"flow", "scheduling"},
    "connectors": {"flow"},
    "rag": {"flow", "llm", "connectors"},
    "cluster": set(),
    "testing": {"flow", "queues", "scheduling", "cluster"},
    "runtime": {"scheduling", "flow", "queues", "cluster"},
    "gateway": {"llm", "scheduling"},
    "jobs": {"runtime", "flow", "scheduling"},
    "simulation": {"scheduling", "flow", "llm"},
}
"""What each folder may import, beside itself and the files at the bottom."""
TOP = {"__init__", "__main__", "bench", "dashboard", "cli"}
"""These use the public names of everything."""
LAZY_PACKAGES = {
    "aiohttp", "asyncio", "cloudpickle", "concurrent", "fastjsonschema", "gzip", "httptools", "importlib", "inspect",
    "msgspec", "numpy", "onnxruntime", "pyarrow", "ray", "rich", "sqlalchemy", "sqlite3", "tantivy", "tokenizers",
    "tomllib", "uvloop", "yarl",
}  # fmt: skip
"""What functions may import when they are called: optional, or slow to import."""
LAZY_MODULES = {
    "sage.runtime.asynchronous",  # asyncio takes 40 ms
    "sage.runtime.eventloop",  # the same
    "sage.runtime.async_worker",  # the same
    "sage.runtime.watched_async",  # the same
    "sage.runtime.durability.directory",  # SQLite
    "sage.runtime.durability.near",  # SQLite
    "sage.runtime.durability",  # the same
    "sage.runtime.durability.far",  # the same
    "sage.connectors.sqlite_table",  # sqlite3
    "sage.connectors.keyvalue_file",  # the same
    "sage.queues.ray_calls",  # asyncio
    "sage.queues.ray_host",  # ray
    "sage.queues.ray_references",  # ray
    "sage.queues.remote.link",  # msgspec
    "sage.queues.remote.queue",  # msgspec
    "sage.queues.remote.server",  # msgspec
    "sage.runtime.processes",  # the same
    "sage.runtime.ray",  # ray, which is optional
    "sage.runtime.fleet",  # the queues between processes, and what starts these
    "sage.queues.remote.zeromq",  # pyzmq, which is optional
    "sage.rag.minilm",  # numpy
    "sage.rag.safetensors_file",  # numpy
    "sage.llm.listening",  # aiohttp, optional
    "sage.llm.simulated.server",  # aiohttp, optional
    "sage.gateway.server",  # aiohttp, optional
}


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


@cache
def trees() -> dict[str, ast.Module]:
    return {
        path.relative_to(HOUSE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(HOUSE.rglob("*.py"))
    }


@cache
def imports() -> list[Import]:
    """All of them: also in functions, and those for type checking only."""
    return [found for file, tree in trees().items() for found in _imports_of(file, tree, in_function=False)]


def _imports_of(file: str, tree: ast.AST, *, in_function: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, name.name, in_function) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import"
            assert node.module is not None
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield Import(file, node.lineno, inner if module_file(inner) else node.module, in_function)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _imports_of(file, node, in_function=in_function or inside)


def module_file(module: str) -> str | None:
    """The file of a module of the house."""
    if module.split(".", maxsplit=1)[0] != "sage":
        return None
    path = "/".join(module.split(".")[1:])
    for file in (f"{path}.py", f"{path}/__init__.py" if path else "__init__.py"):
        if file in trees():
            return file
    return None


def layer(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def test_every_folder_has_a_place_in_the_table() -> None:
    assert {layer(file) for file in trees()} <= {*GROUND, *MAY, *TOP}


def test_imports_point_downward() -> None:
    wrong = []
    for found in imports():
        target = module_file(found.module)
        if target is None or layer(found.file) in TOP:
            continue
        here, there = layer(found.file), layer(target)
        allowed = GROUND_MAY[here] if here in GROUND else MAY[here] | set(GROUND)
        if there not in {here, *allowed}:
            wrong.append(str(found))
    assert wrong == []


def in_circles(files: set[str]) -> set[str]:
    """Those of `files` that import one another in a circle, and what imports them."""
    waiting: dict[str, set[str]] = {file: set() for file in files}
    for found in imports():
        target = module_file(found.module)
        if found.file in files and target in files and target != found.file:
            waiting[found.file].add(target)
    while ready := [file for file, targets in waiting.items() if not targets & waiting.keys()]:
        for file in ready:
            del waiting[file]
    return set(waiting)


def test_there_are_no_cycles() -> None:
    """Not even of imports for type checking, or inside functions."""
    assert in_circles(set(trees())) == set()


def test_functions_import_only_what_is_optional_or_slow() -> None:
    lazy = [found for found in imports() if found.in_function and layer(found.file) not in TOP]
    wrong = [
        str(found)
        for found in lazy
        if found.module not in LAZY_MODULES and found.module.split(".")[0] not in LAZY_PACKAGES
    ]
    assert wrong == []


def test_ray_is_imported_where_it_is_wrapped_only() -> None:
    files = ("ray", "ray_kind", "ray_host", "ray_references")
    allowed = {f"queues/{file}.py" for file in files} | {
        f"runtime/{f}.py" for f in ("ray", "ray_cluster", "ray_handle", "ray_link")
    }
    wrong = [str(found) for found in imports() if found.module.split(".")[0] == "ray" and found.file not in allowed]
    assert [line for line in wrong if not line.startswith(("bench/", "cli/"))] == []


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


@pytest.mark.parametrize(
    ("names", "home"),
    [
        ({"os.environ", "os.environb", "os.getenv", "os.getenvb", "environ", "getenv"}, {"settings.py"}),
        (
            {"pickle.loads", "pickle.load", "pickle.Unpickler", "cloudpickle.loads", "cloudpickle.load"},
            {"flow/shipping.py", "queues/frames.py"},
        ),
        (
            {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"},
            {"clock.py", "llm/faults.py", "cli/checks.py"},
        ),
        ({"marshal.loads", "shelve.open", "torch.load", "yaml.load", "eval", "os.system"}, set()),
    ],
)
def test_what_stands_in_one_place_only(names: set[str], home: set[str]) -> None:
    wrong = [
        f"{file}:{node.lineno} uses {dotted(node)}"
        for file, tree in trees().items()
        if file not in home
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and (dotted(node) in names or dotted(node).removeprefix("dt.") in names)
    ]
    assert wrong == []


def test_no_import_of_names_hides_their_use() -> None:
    """``from time import time`` and the like would slip through the test above."""
    hidden = {("time", "time"), ("os", "environ"), ("os", "getenv"), ("pickle", "loads"), ("cloudpickle", "loads")}
    wrong = [
        f"{file}:{node.lineno}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and any((node.module, name.name) in hidden for name in node.names)
    ]
    assert wrong == []


def test_every_module_says_what_it_is() -> None:
    silent = [file for file, tree in trees().items() if tree.body and ast.get_docstring(tree) is None]
    assert [file for file in silent if file != "version.py"] == []
