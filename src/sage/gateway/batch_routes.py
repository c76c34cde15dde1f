"""``/v1/files`` and ``/v1/batches``, as OpenAI has them. Needs aiohttp.

Files and batches are a tenant's: for others they do not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web

from sage.clock import SYSTEM_CLOCK
from sage.gateway import requests
from sage.gateway.batch import ENDED, READERS, Batch, FileCard, new_id, read_asks, window_s
from sage.gateway.batch_runner import BatchRunner
from sage.gateway.batch_store import BatchStore
from sage.gateway.callers import Caller
from sage.gateway.faults import Refusal
from sage.gateway.serving import CALLER, Handler, read_body
from sage.private import opener

MAX_FILE_BYTES = 100 << 20
MAX_FILES, MAX_UNFINISHED, MAX_ENDED = 1000, 32, 1000
"""Of a tenant. Of batches that have ended the oldest are forgotten; their files stay."""
MAX_PAGE = 100
UPLOAD_TIMEOUT_S = 600.0
PIECE_BYTES = 1 << 16
LOOK_BYTES = 1 << 20
"""So often it is looked whether there is still room."""


class BatchRoutes:
    """The handlers. Without a `store` every route says that there are none here, and `why`."""

    def __init__(self, store: BatchStore | None, runner: BatchRunner | None, most_bytes: int, why: str) -> None:
        self._store_or_none = store
        self._runner_or_none = runner
        self._most_bytes = most_bytes
        self._why = why

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        return (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._files),
            ("GET", "/v1/files/{id}", self._file),
            ("DELETE", "/v1/files/{id}", self._delete),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._batches),
            ("GET", "/v1/batches/{id}", self._batch),
            ("POST", "/v1/batches/{id}/cancel", self._cancel),
        )

    @property
    def _store(self) -> BatchStore:
        if self._store_or_none is None:
            raise Refusal(503, f"there are no batches here: {self._why}", code="no_batches")
        return self._store_or_none

    @property
    def _runner(self) -> BatchRunner:
        assert self._runner_or_none is not None, "there is one where there is a store"
        return self._runner_or_none

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        store, caller = self._store, request[CALLER]
        if len(store.files(caller.tenant)) >= MAX_FILES:
            raise Refusal(400, f"at most {MAX_FILES} files are kept", code="too_many_files")
        draft = store.draft()
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                filename, purpose = await self._received(request, draft)
            if purpose != "batch":
                raise Refusal(400, "batch is expected", param="purpose")
            size_bytes, now_s = draft.stat().st_size, int(SYSTEM_CLOCK.wall())
            card = FileCard(new_id("file-"), caller.tenant, filename, purpose, size_bytes, now_s)
            await asyncio.to_thread(store.keep, card, draft)
        except TimeoutError:
            raise Refusal(408, f"the file did not come within {UPLOAD_TIMEOUT_S:g} s") from None
        except OSError:
            raise _not_kept() from None
        finally:
            draft.unlink(missing_ok=True)
        return _json(card.public())

    async def _received(self, request: web.Request, draft: Path) -> tuple[str, str]:
        """The name of the file and its purpose."""
        if request.content_type != "multipart/form-data":
            raise Refusal(415, "multipart/form-data is expected")
        filename = purpose = None
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise Refusal(400, "one part in another is not accepted")
                if part.name == "purpose":
                    purpose = (await part.read_chunk(64)).decode("ascii", "replace")
                elif part.name == "file" and filename is None:
                    filename = (part.filename or "file")[:256].encode("utf-8", "replace").decode()
                    await self._written(part, draft)
        except (ValueError, web.RequestPayloadError):
            raise Refusal(400, "the form cannot be read") from None
        if filename is None:
            raise Refusal(400, "a file is expected", param="file")
        return filename, purpose or ""

    async def _written(self, part: BodyPartReader, draft: Path) -> None:
        size_bytes = most = 0
        with open(draft, "xb", opener=opener, buffering=0) as file:
            while piece := await part.read_chunk(PIECE_BYTES):
                if size_bytes + len(piece) > most:  # others may write meanwhile
                    room = min(MAX_FILE_BYTES, size_bytes + self._most_bytes - self._store.size_bytes)
                    most = min(room, size_bytes + LOOK_BYTES)
                    if size_bytes + len(piece) > most:
                        raise Refusal(413, f"there is room for {max(0, room)} bytes; delete files", param="file")
                size_bytes += file.write(piece)

    async def _files(self, request: web.Request) -> web.StreamResponse:
        return _page(request, self._store.files(request[CALLER].tenant), FileCard.public)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return _json(self._card(request.match_info["id"], request[CALLER]).public())

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        card = self._card(request.match_info["id"], request[CALLER])
        if any(batch.input_file_id == card.id and self._runner.is_running(batch) for batch in self._store.batches()):
            raise Refusal(409, "a batch that runs needs the file: cancel it first", code="file_in_use")
        self._store.delete(card)
        return _json({"id": card.id, "object": "file", "deleted": True})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        card = self._card(request.match_info["id"], request[CALLER])
        return web.FileResponse(self._store.content(card), headers={"Content-Type": "application/jsonl"})

    async def _create(self, request: web.Request) -> web.StreamResponse:
        store, caller = self._store, request[CALLER]
        labels = requests.labels(request.headers)
        try:
            asks = read_asks(await read_body(request))
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise Refusal(400, str(error)) from None
        if asks.endpoint not in READERS:
            raise Refusal(400, f"one of {', '.join(READERS)} is expected", param="endpoint")
        seconds = window_s(asks.completion_window)
        card = self._card(asks.input_file_id, caller, "input_file_id")
        if self._runner.unfinished(caller.tenant) >= MAX_UNFINISHED:
            raise Refusal(
                429, f"{MAX_UNFINISHED} batches have not ended yet", code="too_many_batches", retry_after_s=60
            )
        now_s = int(SYSTEM_CLOCK.wall())
        batch = Batch(
            new_id("batch_"), caller.tenant, caller.name, labels.job, labels.step, asks.endpoint, card.id,
            asks.completion_window, now_s, now_s + seconds, metadata=asks.metadata,
        )  # fmt: skip
        try:
            await asyncio.to_thread(store.save, batch)
        except OSError:
            raise _not_kept() from None
        self._runner.start(batch)
        ended = [each for each in store.batches() if each.tenant == caller.tenant and each.status in ENDED]
        for each in ended[MAX_ENDED:]:
            store.forget(each)
        return _json(batch.public())

    async def _batches(self, request: web.Request) -> web.StreamResponse:
        tenant = request[CALLER].tenant
        return _page(request, [batch for batch in self._store.batches() if batch.tenant == tenant], Batch.public)

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        return _json(self._found(request).public())

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self._found(request)
        await self._runner.cancel(batch)
        return _json(batch.public())

    def _card(self, name: str, caller: Caller, param: str = "id") -> FileCard:
        card = self._store.file(name, caller.tenant)
        if card is None:
            raise Refusal(404, "there is no such file", code="file_not_found", param=param)
        return card

    def _found(self, request: web.Request) -> Batch:
        batch = self._store.batch(request.match_info["id"], request[CALLER].tenant)
        if batch is None:
            raise Refusal(404, "there is no such batch", code="batch_not_found", param="id")
        return batch


def _not_kept() -> Refusal:
    return Refusal(503, "the gateway cannot write to its disk", code="storage_error", retry_after_s=60)


def _page(request: web.Request, listed: Sequence[Any], public: Callable[[Any], dict[str, Any]]) -> web.Response:
    """At most ``limit`` of them behind the one called ``after``."""
    said = request.query.get("limit", str(MAX_PAGE))
    if len(said) > 9 or not said.isascii() or not said.isdigit() or not 0 < int(said) <= 10_000:
        raise Refusal(400, "a number from 1 to 10000 is expected", param="limit")
    limit, after = min(int(said), MAX_PAGE), request.query.get("after")
    names = [each.id for each in listed]
    if after is not None and after not in names:
        raise Refusal(400, "nothing has this id", param="after")
    begin = 0 if after is None else names.index(after) + 1
    page = [public(each) for each in listed[begin : begin + limit]]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return _json({"object": "list", "data": page, "has_more": begin + limit < len(listed), **ends})


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")
