"""A proxy of the tests' own between workers and a broker: it can delay, and it can cut.

Kafka's clients connect to the addresses that a broker advertises, so the proxy writes its own port over the broker's in
every response that names it. Both addresses have the same length, so nothing else in a frame moves.
"""

import asyncio
import contextlib
import struct
import threading
from typing import Self

_HOST = b"127.0.0.1"


class Proxy:
    """Listens on a free port of 127.0.0.1 while its context lasts."""

    def __init__(self, bootstrap: str) -> None:
        self._upstream_port = int(bootstrap.rpartition(":")[2])
        self.delay_s = 0.0
        """Added to every frame, each way."""
        self._cut = False
        self._clients: dict[asyncio.StreamReader, asyncio.StreamWriter] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.frames = 0
        """Frames passed on so far."""

    @property
    def bootstrap(self) -> str:
        """For clients."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result(10)
        self._port = int(self._server.sockets[0].getsockname()[1])
        self._theirs = _HOST + struct.pack(">i", self._upstream_port)
        self._ours = _HOST + struct.pack(">i", self._port)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._abort_all()

    def cut(self) -> None:
        """Break every connection, and every new one at once."""
        self._cut = True
        self._loop.call_soon_threadsafe(self._abort_all)

    def mend(self) -> None:
        """Let connections be made again."""
        self._cut = False

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, upstream}
        self._writers |= ends
        self._clients[reader] = writer
        ways = [
            asyncio.ensure_future(self._pass_on(reader, upstream)),
            asyncio.ensure_future(self._pass_on(upstream_reader, writer, self._theirs, self._ours)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.transport.abort()
        self._writers -= ends
        await asyncio.gather(*ways, return_exceptions=True)
        del self._clients[reader]

    async def _takes(self, request: bytes, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> bool:
        """Whether this request goes no further. For proxies that do more than pass on."""
        del request, client, broker
        return False

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, old: bytes = b"", new: bytes = b""
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(4)
                frame = await reader.readexactly(int.from_bytes(head, "big"))
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not old and await self._takes(frame, self._clients[reader], writer):
                    continue
                writer.write(head + (frame.replace(old, new) if old else frame))
                await writer.drain()
                self.frames += 1
