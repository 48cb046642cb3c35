"""Short questions to an HTTP server, each answered within a time and a size, whoever answers.

A client library's timeout counts from byte to byte: a port that sends one a second, or headers
without end, would be listened to for good.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

_LONGEST = 4 * 2**20  # bytes of an answer: descriptions have some hundreds
_NOT_LIVE = (400, 503)  # MLServer and Triton say 400 and nothing more, KServe 503 with an error


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        status: of HTTP.
        body: as it came.
    """

    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object.

        Raises:
            ValueError: it is none.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"its answer, of status {self.status}, is not the protocol's")
        return found

    def live(self) -> bool:
        """What the answer to ``/v2/health/live`` means.

        Raises:
            ValueError: no inference server answers so.
        """
        if self.status == 200:
            return True
        if self.status not in _NOT_LIVE or (self.body and not {"live", "error"} & set(self.json())):
            raise ValueError(f"its answer has the status {self.status}")
        return False


def asked(host: str, port: int, path: str, within_s: float) -> Reply:
    """What a server answers to GET.

    Args:
        host: a name or an address, without brackets.
        path: quoted as a URL wants it.
        within_s: seconds from the first packet to the last.

    Raises:
        OSError: it cannot be reached, or the time was over.
        http.client.HTTPException: what it sends is not HTTP.
        ValueError: its answer is too long, or not HTTP.
    """
    end = time.monotonic() + within_s
    name = f"[{host}]" if ":" in host else host
    try:
        with socket.create_connection((host, port), within_s) as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nAccept: application/json\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            reply = http.client.HTTPResponse(_Until(connection, end), method="GET")  # type: ignore[arg-type]
            with reply:
                reply.begin()
                body = reply.read(_LONGEST + 1)
                status = reply.status
    except TimeoutError as error:
        raise TimeoutError(f"it gave no whole answer within {within_s:g} s") from error
    if len(body) > _LONGEST:
        raise ValueError(f"its answer is longer than {_LONGEST} bytes")
    return Reply(status, body)


class _Until(io.RawIOBase):
    """A connection that is read until a time, as HTTPResponse reads one."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection, self._end = connection, end

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)
