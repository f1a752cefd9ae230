"""The connections of a simulated VM: tasks on one thread, HTTP/1.1 for its guest, and tunnels."""

import binascii
import json
import re
import select
import socket
import sys
import time

FOREVER = float("inf")
CHUNK_BYTES = 65_536
REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"connection: Upgrade\r\nupgrade: torpor-tunnel\r\n\r\n"
)


class Wait:
    """What a task waits for, whichever comes first: a ready socket, a condition, a time."""

    def __init__(self, connection=None, event=0, until=lambda: False, limit_s=FOREVER):
        self.connection, self.event, self.until = connection, event, until
        self.deadline = time.monotonic() + limit_s

    def __await__(self):
        yield self

    def is_over(self, ready):
        seen = 0 if self.connection is None else ready.get(self.connection.fileno(), 0)
        is_ready = seen & (self.event | select.POLLERR | select.POLLHUP)
        return is_ready or self.until() or time.monotonic() >= self.deadline


class Loop:
    """Runs tasks: coroutines that await nothing but Wait. (asyncio takes too long to load.)"""

    def __init__(self):
        self.waiting = []

    def start(self, task):
        try:
            self.waiting.append((task.send(None), task))
        except StopIteration:
            pass

    def run(self):
        has_moved = False
        while True:
            # One task's progress may be what another waits for: check again before sleeping.
            limit_s = min(wait.deadline for wait, _ in self.waiting) - time.monotonic()
            ready = self.poll(0 if has_moved else limit_s)
            waiting, self.waiting, has_moved = self.waiting, [], False
            for wait, task in waiting:
                if wait.is_over(ready):
                    has_moved = True
                    self.start(task)
                else:
                    self.waiting.append((wait, task))

    def poll(self, limit_s):
        events = {}
        for wait, _ in self.waiting:
            if wait.connection is not None:
                events[wait.connection] = events.get(wait.connection, 0) | wait.event
        poller = select.poll()
        for connection, mask in events.items():
            poller.register(connection, mask)
        return dict(poller.poll(None if limit_s == FOREVER else max(0, limit_s * 1000)))

    async def listen(self, listener, serve):
        listener.setblocking(False)
        while True:
            await Wait(listener, select.POLLIN)
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                continue
            connection.setblocking(False)
            self.start(serve_to_the_end(connection, serve))


async def serve_to_the_end(connection, serve):
    """Whatever goes wrong with a connection ends that connection, and nothing else."""
    with connection:
        try:
            await serve(connection)
        except OSError:
            pass
        except Exception as error:
            print(f"ended a connection: {error!r}", file=sys.stderr)


async def receive(connection):
    """Empty when the other end has sent everything."""
    while True:
        await Wait(connection, select.POLLIN)
        try:
            return connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            pass


async def send(connection, data):
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            await Wait(connection, select.POLLOUT)


class HttpConnection:
    """Answers one request after the other, until an upgrade makes it a tunnel."""

    def __init__(self, loop, connection, guest):
        self.loop, self.connection, self.guest = loop, connection, guest
        self.unread = bytearray()

    async def serve(self):
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_last = False
        while not is_last:
            first, *lines = (await self.take_until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, version = first.split(" ")
            fields = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in fields}
            body = await self.take_body(headers)
            path, _, query = target.partition("?")
            given = {**parse_query(query), **(json.loads(body) if body else {})}
            if not self.guest.is_running:
                await Wait(until=lambda: self.guest.is_running)
            options = headers.get("connection", "").lower()
            if "upgrade" in options:
                return await self.open_tunnel(given.get("port"))
            is_last = version != "HTTP/1.1" or "close" in options
            await self.answer(*await self.guest.answer(path, given), has_body=method != "HEAD")

    async def answer(self, status, content, has_body=True):
        body = json.dumps(content)
        head = [
            f"HTTP/1.1 {status} {REASONS[status]}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        await send(self.connection, "\r\n".join([*head, "", body if has_body else ""]).encode())

    async def open_tunnel(self, port):
        target = self.guest.loopback_port_of(port)
        if target is None:
            refusal = {"code": "PORT_NOT_OPEN", "message": "nothing listens there"}
            return await self.answer(404, refusal)
        with socket.socket() as inside:
            inside.setblocking(False)
            inside.connect_ex(("127.0.0.1", target))
            await send(self.connection, SWITCHING)
            await send(inside, self.unread)
            ended = []
            self.loop.start(copy(self.connection, inside, ended))
            self.loop.start(copy(inside, self.connection, ended))
            await Wait(until=lambda: len(ended) == 2)

    async def take_body(self, headers):
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self.take(int(headers.get("content-length", 0)))
        body = bytearray()
        while size := int((await self.take_until(b"\r\n")).partition(b";")[0], 16):
            body += await self.take(size)
            await self.take_until(b"\r\n")
        while await self.take_until(b"\r\n"):
            pass  # A trailer.
        return body

    async def take_until(self, mark):
        while mark not in self.unread:
            await self.read()
        return (await self.take(self.unread.find(mark) + len(mark)))[: -len(mark)]

    async def take(self, size):
        while len(self.unread) < size:
            await self.read()
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken

    async def read(self):
        data = await receive(self.connection)
        if not data:
            raise ConnectionError("it ended")
        self.unread += data


async def copy(source, target, ended):
    try:
        while data := await receive(source):
            await send(target, data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for broken in (source, target):
            hang_up(broken)
    ended.append(source)


def hang_up(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def parse_query(text):
    pairs = (pair.partition("=") for pair in text.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def unquote(text):
    raw = text.replace("+", " ").encode("latin-1")
    plain = re.sub(rb"%([0-9a-fA-F]{2})", lambda found: binascii.unhexlify(found[1]), raw)
    return plain.decode("utf-8", "replace")
