"""A TCP proxy that can cut, half-close, refuse, delay and stall connections."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from patience import DEADLINE_S
from ports import free_port


class Proxy:
    """Listens on a port of its own and passes everything on to `target`; `delay_s` in each direction."""

    def __init__(self, target: tuple[str, int], delay_s: float = 0.0) -> None:
        self._target = target
        self._delay_s = delay_s
        self._open: set[asyncio.StreamWriter] = set()
        self._there: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self.address = "127.0.0.1", free_port()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sage-test-proxy")
        self._thread.start()
        self.flow()
        self.accept()

    def cut(self) -> None:
        """End every connection at once, in the middle of whatever it carries."""
        self._do(self._cut())

    def half_close(self) -> None:
        """Tell the target that nothing more comes, and go on the other way."""
        self._do(self._half_close())

    def refuse(self) -> None:
        """Accept no more connections."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Accept connections."""
        self._do(self._accept())

    def stall(self) -> None:
        """Keep connections open, and pass nothing on."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def flow(self) -> None:
        """Pass on again, also what was held back."""
        self._loop.call_soon_threadsafe(self._flows.set)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.refuse()
        self.flow()
        self.cut()
        self._do(self._rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(DEADLINE_S)

    async def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _half_close(self) -> None:
        for writer in list(self._there):
            if not writer.is_closing():
                writer.write_eof()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _accept(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, *self.address)

    async def _rest(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, there_writer}
        self._there.add(there_writer)
        try:
            await asyncio.gather(self._carry(reader, there_writer), self._carry(there_reader, writer))
        except asyncio.CancelledError:
            return  # the proxy ends; whoever would be told is gone
        finally:
            self._open -= {writer, there_writer}
            self._there.discard(there_writer)
            writer.transport.abort()
            there_writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        passing = asyncio.create_task(self._pass_on(waiting, writer))
        try:
            while data := await reader.read(1 << 18):
                waiting.put_nowait((self._loop.time() + self._delay_s, data))
        except OSError:
            pass
        finally:
            waiting.put_nowait((self._loop.time() + self._delay_s, b""))
        await passing

    async def _pass_on(self, waiting: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - self._loop.time())
            await self._flows.wait()
            if not data:
                writer.transport.abort()
                return
            try:
                writer.write(data)
                await writer.drain()
            except (OSError, RuntimeError):  # it was cut, or half-closed
                return
