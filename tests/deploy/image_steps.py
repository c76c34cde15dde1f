"""Go through the steps of deploy/Dockerfile without a container engine: `make check-image`.

Copies and commands are done as they are written, in an empty folder that stands for the root of the image. What only
root of an image can do (its user) is left out, and said. The Python is this one and not that of the base.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
OF_THE_IMAGE = ("/opt/", "/usr/local/bin/", "/src", "/home/")
LEFT_OUT = ("groupadd", "useradd")


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: the name, and what follows it, continued lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def is_let_through(path: str) -> bool:
    """Whether the build sees the file at `path`: of all patterns that fit it, the last one counts."""
    parents = [path, *(str(parent) for parent in Path(path).parents)]
    seen = True
    for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split():
        pattern = line.removeprefix("!")
        if any(fnmatch(each, pattern) or fnmatch(f"/{each}", pattern) for each in parents) or pattern == "**":
            seen = line.startswith("!")
    return seen


class Image:
    """The folder that stands for the image, and what its instructions have set so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left_out: list[str] = []
        self._workdir = folder
        self._variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}

    def do(self, name: str, rest: str) -> None:
        """One instruction."""
        if name in ("ENV", "ARG"):
            for pair in rest.split():
                variable, _, value = pair.partition("=")
                value = self._inside(value).replace("$PATH", self._variables["PATH"])
                self._variables[variable] = os.environ.get(variable, value) if name == "ARG" else value
        elif name == "WORKDIR":
            self._workdir = Path(self._inside(rest))
            self._workdir.mkdir(parents=True, exist_ok=True)
        elif name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                self._copy(ROOT / source, self._workdir / self._inside(target), into=target.endswith("/"))
        elif name == "RUN":
            self._run(rest)

    def run(self, command: str) -> str:
        """What `command` prints inside; raises `CalledProcessError`."""
        done = subprocess.run(
            ["sh", "-ec", self._inside(command)], cwd=self._workdir, env=self._variables, check=True,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return done.stdout

    def _run(self, command: str) -> None:
        if command.startswith(LEFT_OUT):
            self.left_out.append(command)
            return
        (self.folder / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        self.run(command)

    def _inside(self, text: str) -> str:
        for place in OF_THE_IMAGE:
            text = text.replace(place, f"{self.folder}{place}")
        return text

    def _copy(self, source: Path, target: Path, *, into: bool) -> None:
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and is_let_through(str(path.relative_to(ROOT))):
                place = target / path.relative_to(source) if source.is_dir() else target / path.name if into else target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def main() -> int:
    """Build, then look whether what was built works."""
    with TemporaryDirectory(prefix="sage-image-") as folder:
        image = Image(Path(folder))
        for name, rest in instructions():
            print(name, rest, flush=True)
            image.do(name, rest)
        checks = ("sage --version", "/usr/local/bin/ray --version", "sage doctor", "sage endpoint simulate --help")
        for check in checks:
            print(f"$ {check}\n{image.run(check).rstrip()}", flush=True)
        print(*(f"left out: {each}" for each in image.left_out), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
