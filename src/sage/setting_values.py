"""What a setting may be: from a value as it was found to one that was checked.

Codes: E241 wrong type, E242 value not allowed, E244 a key that cannot be used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sage.errors import PipelineError

MAX_TIMEOUT_S = 86_400.0
MAX_KEY_BYTES = 4096
MAX_COUNT = 1_000


class Secret:
    """A text that is never shown: `repr`, `str` and formatting give asterisks; `reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself: only for the place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('********')"

    def __str__(self) -> str:
        return "********"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was found. `base` is what a relative path is relative to, `home` what ``~`` stands for."""

    key: str
    value: object
    origin: str
    base: Path
    home: str | None
    from_file: bool

    def wrong_type(self, expected: str) -> PipelineError:
        got = f"{self.value!r} ({type(self.value).__name__})"
        return PipelineError("E241", f"wrong type for {self.key}", at=self.origin, got=got, expected=expected)

    def not_allowed(self, expected: str) -> PipelineError:
        return PipelineError("E242", f"{self.key} cannot be this", at=self.origin, got=self.value, expected=expected)


def check_url(url: str, at: str) -> str:
    """`url` without a trailing slash, if it is a plain http(s) base URL; raises `PipelineError` E242 that names `at`.

    User names and passwords are refused (they would end in logs), as are queries and fragments.
    """
    fault = _url_fault(url)
    if fault is None:
        return url.rstrip("/")
    shown = "***@" + url.rpartition("@")[2] if "@" in url else url
    expected = "http://HOST[:PORT][/PATH] or https://..."
    raise PipelineError("E242", fault, at=at, got=shown.partition("?")[0], expected=expected)


def check_secret(text: str, at: str) -> Secret:
    """`text` as a `Secret`, if it can be sent in an HTTP header; raises `PipelineError` E244 without showing it."""
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise PipelineError("E244", "the key cannot be sent", at=at, expected="printable ASCII without spaces")
    return Secret(text)


def _url_fault(url: str) -> str | None:
    if not url.isascii() or not url.isprintable() or any(c in ' \\"<>^`{|}' for c in url):
        return "the URL holds characters that a URL cannot hold"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the URL cannot be understood"
    if parts.scheme not in ("http", "https"):
        return "the URL has no scheme that SAGE speaks"
    if "@" in parts.netloc:
        return "the URL holds a user name or password"
    if not parts.hostname or port == 0:
        return "the URL has no host or no usable port"
    if "?" in url or "#" in url:
        return "the URL holds a query or a fragment"
    return None


def _read_text(given: Given) -> str:
    if not isinstance(given.value, str):
        raise given.wrong_type("text")
    if not given.value or not given.value.isprintable():
        raise given.not_allowed("printable text, not empty")
    return given.value


def _read_url(given: Given) -> str:
    return check_url(_read_text(given), given.origin)


def _read_urls(given: Given) -> str:
    urls = [check_url(url.strip(), given.origin) for url in _read_text(given).split(",")]
    if len(set(urls)) < len(urls):
        raise given.not_allowed("each URL once")
    return ",".join(urls)


def _read_key(given: Given) -> Secret:
    if given.from_file:
        try_ = f"the variable SAGE_{given.key.upper()}" + (", or llm_key_file = PATH" if given.key == "llm_key" else "")
        raise PipelineError("E244", "the key stands in the settings file", at=given.origin, try_=try_)
    return check_secret(str(given.value), given.origin)


def _read_path(given: Given) -> Path:
    text = _read_text(given)
    if given.home and (text == "~" or text.startswith("~/")):
        return Path(given.home, text[2:])
    return given.base / text


def _read_seconds(given: Given) -> float:
    value = given.value
    try:
        if isinstance(value, bool) or (given.from_file and not isinstance(value, int | float)):
            raise given.wrong_type("a number")
        seconds = float(value)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        raise given.wrong_type("a number") from None
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_TIMEOUT_S):
        raise given.not_allowed(f"more than 0 and at most {MAX_TIMEOUT_S:.0f} seconds")
    return seconds


def _read_count(given: Given) -> int:
    value = given.value
    try:
        if isinstance(value, bool) or (given.from_file and not isinstance(value, int)):
            raise given.wrong_type("a whole number")
        count = int(value)  # type: ignore[call-overload]
    except ValueError:
        raise given.wrong_type("a whole number") from None
    if not 0 <= count <= MAX_COUNT:
        raise given.not_allowed(f"from 0 to {MAX_COUNT:,}")
    return int(count)


def _read_bool(given: Given) -> bool:
    if isinstance(given.value, bool):
        return given.value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if given.from_file or str(given.value).lower() not in words:
        raise given.wrong_type("true or false")
    return words[str(given.value).lower()]


READERS: Mapping[str, Callable[[Given], object]] = {
    "llm_url": _read_urls,
    "llm_key": _read_key,
    "llm_key_file": _read_path,
    "llm_model": _read_text,
    "llm_timeout_s": _read_seconds,
    "gateway_url": _read_url,
    "gateway_key": _read_key,
    "data_dir": _read_path,
    "runtime_dir": _read_path,
    "restarts": _read_count,
    "debug": _read_bool,
}


def key_from(file: Path, origin: str) -> Secret:
    """The key in the file that the setting at `origin` names; raises `PipelineError` E244."""
    at = f"{file} (llm_key_file from {origin})"
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise PipelineError("E244", "the key file cannot be read", at=at, got=error.strerror) from error
    if len(raw) > MAX_KEY_BYTES:
        raise PipelineError(
            "E244", "the key file is too large for a key", at=at, expected=f"at most {MAX_KEY_BYTES} bytes"
        )
    return check_secret(raw.decode("ascii", "replace"), at)
