"""Tools of the load test of `duo serve`: the server as a process, and HTTP connections that may be cut off."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import time

START_SECONDS = 300  # time limit of the start


class Server:
    """A new `duo serve` process on a free port of 127.0.0.1. Its log goes to a file in `folder`."""

    def __init__(self, duo: str, folder: pathlib.Path, flags: list[str]):
        port_file = folder / "port"
        port_file.unlink(missing_ok=True)
        self.log_path = folder / "log"
        self.command = [str(duo), "serve", *flags, "--port", "0", "--port-file", str(port_file)]
        env = {"OMP_WAIT_POLICY": "passive", **os.environ}
        with open(self.log_path, "wb") as log:
            # The server is in its own group. Ctrl-C reaches only the client, which then stops the server.
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            self.port = self.wait_for_port(port_file)
        except BaseException:  # also for Ctrl-C
            self.process.kill()
            self.process.wait()
            raise

    def wait_for_port(self, port_file: pathlib.Path) -> int:
        end = time.monotonic() + START_SECONDS
        while not (port_file.exists() and port_file.read_text().strip()):
            if self.process.poll() is not None:
                raise RuntimeError("the server ended at once: " + self.log())
            if time.monotonic() > end:
                raise RuntimeError("the server does not start: " + self.log())
            time.sleep(0.02)
        return int(port_file.read_text())

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Stops the server and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError("the server does not stop: " + self.log()[-2000:]) from None

    def resources(self) -> dict[str, int]:
        """Resident bytes now (rss) and at the peak, number of threads and number of open files."""
        proc = pathlib.Path("/proc/%d" % self.process.pid)
        fields = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        kib = {name: int(fields[key].split()[0]) << 10 for name, key in (("rss", "VmRSS"), ("peak", "VmHWM"))}
        return {**kib, "threads": int(fields["Threads"]), "fds": len(os.listdir(proc / "fd"))}


class Connection:
    """One connection, which is used for one request after the other."""

    def __init__(self, port: int):
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.headers: dict[str, str] = {}

    async def send(self, method: str, path: str, body: dict | None = None, part: float = 1) -> None:
        """Sends a request. With `part` < 1 sends only this share of its body."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n"
        if body is not None:
            head += "Content-Type: application/json\r\n"
        self.writer.write(head.encode() + b"\r\n" + data[: int(len(data) * part)])
        await self.writer.drain()

    async def head(self) -> int:
        """Reads the head of the answer and returns its status."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.headers = {name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:])}
        return int(lines[0].split()[1])

    async def pieces(self):
        """Yields the pieces of the body when they arrive."""
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            yield await self.reader.readexactly(int(self.headers.get("content-length", 0)))
        else:
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readuntil(b"\r\n")
        if self.headers.get("connection", "").lower() == "close":
            self.close()

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    async def events(self):
        """Yields the data of server-sent events. Skips comments."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):
                    yield event[6:].decode()
        if rest:
            raise ValueError("the stream ends within an event: %r" % rest[:200])

    def close(self, reset: bool = False) -> None:
        """Closes the connection. The server sees its end, or an error with `reset`."""
        if self.writer is None:
            return
        self.writer.transport.abort() if reset else self.writer.close()
        self.reader = self.writer = None


async def call(port: int, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
    """Sends one request and returns the status and the JSON answer."""
    connection = Connection(port)
    try:
        await connection.send(method, path, body)
        status = await connection.head()
        return status, json.loads(await connection.body() or b"null")
    finally:
        connection.close()
