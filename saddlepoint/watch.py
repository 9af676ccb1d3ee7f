"""Processes that notice when one of them dies.

gloo tells a process of a dead partner only where the two exchange data just then, and waits half an hour for the rest.
So every process holds a connection to process 0 that carries nothing: the kernel closes it when its owner ends,
whatever ended it. Process 0 sees a connection close without a farewell, tells the others whose it was, and all end at
once with one message. A process that hangs is not noticed here, only by the timeout of torch.distributed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

LOST = 4  # exit status of a process that ended because another one died
GRACE = 10.0  # seconds that a process has to end by itself after another one has left with an error
SILENCE = 40  # seconds after which a machine without power counts as gone


class Watch:
    """The connections of one process, looked after by a thread; made on all processes together.

    advice: called for what else the message should say, in the process that prints it. agreed: gives every process
    the text of process 0.
    """

    def __init__(self, rank: int, world: int, agreed: Callable[[str], str]) -> None:
        self.rank, self.world = rank, world
        self.advice: Callable[[], str] = str
        self.peers: dict[socket.socket, int] = {}
        self._failed: list[tuple[int, str]] = []  # (rank, what went wrong there)
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._key = secrets.token_hex(16)
        self._server: socket.socket | None = None
        host = os.environ.get("MASTER_ADDR", "localhost")
        if rank == 0:
            with contextlib.suppress(OSError):
                self._server = _listening(host)
            port = self._server.getsockname()[1] if self._server else 0
            agreed(f"{port} {self._key}")
        else:
            port, _, self._key = agreed("").partition(" ")
            with contextlib.suppress(OSError):
                self._connect(host, int(port))
        work = self._serve if rank == 0 else self._listen
        if self._server or self.peers:  # where no port can be had, only the timeout is left
            threading.Thread(target=work, name="saddlepoint-watch", daemon=True).start()

    # ---- process 0: the others' connections
    def _serve(self) -> None:
        assert self._server is not None
        ready = selectors.DefaultSelector()
        ready.register(self._server, selectors.EVENT_READ)
        while not self._ending.is_set():
            for key, _ in ready.select(0.5):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is self._server:
                    with contextlib.suppress(OSError):
                        self._admit(ready)
                elif not self._heard(connection):
                    with contextlib.suppress(KeyError, ValueError):  # closed meanwhile
                        ready.unregister(connection)
        ready.close()

    def _admit(self, ready: selectors.BaseSelector) -> None:
        assert self._server is not None
        connection, _ = self._server.accept()
        connection.settimeout(10)
        said = _received(connection)
        if not said or said.get("key") != self._key:
            connection.close()
            return
        _keep_alive(connection)
        with self._lock:
            self.peers[connection] = said["rank"]
        ready.register(connection, selectors.EVENT_READ)

    # ---- the other processes: the connection to process 0
    def _connect(self, host: str, port: int) -> None:
        if not port:
            return
        connection = socket.create_connection((host, port), timeout=30)
        _send(connection, {"key": self._key, "rank": self.rank})
        _keep_alive(connection)
        self.peers[connection] = 0

    def _listen(self) -> None:
        (connection,) = self.peers
        connection.settimeout(None)
        while self._heard(connection):
            pass

    # ---- both
    def _heard(self, connection: socket.socket) -> bool:
        """Take in one message; False when the connection is over."""
        try:
            said = _received(connection)
        except OSError:
            said = None
        peer = self.peers.get(connection)
        if self._ending.is_set() or peer is None:
            return False
        if said is None:
            self._end(peer, "")
        if "farewell" in said:
            with self._lock:
                self.peers.pop(connection, None)
            return False
        if "lost" in said:
            self._end(said["lost"], said["why"])
        if "error" in said:
            self._failed.append((peer, said["error"]))
            threading.Thread(target=self._end_later, args=(peer, said["error"]), daemon=True).start()
        return True

    def _end_later(self, peer: int, why: str) -> None:
        """Another process left with an error: this one mostly has the same and ends by itself."""
        if not self._ending.wait(GRACE):
            self._end(peer, why)

    def _end(self, lost: int, why: str) -> NoReturn:
        """Tell and end this process. The main thread waits in C++ for somebody who will not come: it is not asked."""
        with self._lock:
            if self.rank == 0:
                for connection, peer in self.peers.items():
                    if peer != lost:
                        with contextlib.suppress(OSError):
                            _send(connection, {"lost": lost, "why": why})
            if self.rank == (0 if lost else 1) and not (why and lost == 0):  # process 0 tells its errors itself
                self._tell(lost, why)
            os._exit(LOST)

    def _tell(self, lost: int, why: str) -> None:
        stream = sys.__stderr__
        if stream is None:
            return
        what = f"stopped with an error ({why})" if why else "died (killed, or out of memory?)"
        with contextlib.suppress(Exception):
            advice = self.advice()
            restore = "\x1b[?25h\n" if stream.isatty() else ""  # a progress line hides the cursor
            print(
                f"{restore}saddlepoint: the process of rank {lost} {what}, so all {self.world} end. {advice}".rstrip(),
                file=stream,
                flush=True,
            )

    def settle(self, seconds: float = 3.0) -> None:
        """A collective call failed: if it was because another process died, this does not return."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._failed:
                self._end(*self._failed[0])
            self._ending.wait(0.05)

    def leave(self, error: BaseException | None = None) -> None:
        """Say farewell, or what went wrong, and stop watching."""
        self._ending.set()
        said = {"farewell": True} if error is None else {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        with self._lock:
            for connection in self.peers:
                with contextlib.suppress(OSError):
                    _send(connection, said)
                    if error is not None:
                        _send(connection, {"farewell": True})
                    connection.close()
            self.peers.clear()
            if self._server:
                self._server.close()


def _listening(host: str) -> socket.socket:
    """A server on the address under which the others find this machine."""
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    return socket.create_server((str(address[0]), 0), family=family)


def _keep_alive(connection: socket.socket) -> None:
    """Let the kernel ask now and then: a machine without power closes nothing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", SILENCE // 2), ("TCP_KEEPINTVL", SILENCE // 8), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, said: dict[str, Any]) -> None:
    content = json.dumps(said).encode()[:60000]
    connection.sendall(len(content).to_bytes(2, "big") + content)


def _received(connection: socket.socket) -> dict[str, Any] | None:
    """One message; None when the connection has ended or what came is no message."""
    length = _exactly(connection, 2)
    content = _exactly(connection, int.from_bytes(length, "big")) if length else None
    try:
        said = json.loads(content) if content else None
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            return None
        found += part
    return found
