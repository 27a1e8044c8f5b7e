"""How the agents of an attempt speak to each other: JSON lines over TCP, each with a deadline."""

import contextlib
import json
import socket
import time
from typing import Any

from cluster.exit_codes import MachineFault

HELLO_S = 5.0
RETRY_S = 0.2
MAX_LINE_BYTES = 1 << 20


class Conversation:
    """One end of a connection; MachineFault when the other end falls silent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.file = connection.makefile("rwb")
        self.peer = connection.getpeername()[0]

    def say(self, message: Any) -> None:
        """Send a value that JSON can hold."""
        try:
            self.file.write(json.dumps(message).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise MachineFault(f"{self.peer} is gone: {error}") from None

    def hear(self, limit_s: float) -> Any:
        """What the other end says next."""
        self.connection.settimeout(max(limit_s, 0.001))  # 0 would mean not to wait at all
        try:
            line = self.file.readline(MAX_LINE_BYTES)
            if line.endswith(b"\n"):
                return json.loads(line)
        except TimeoutError:
            raise MachineFault(f"{self.peer} said nothing for {limit_s:.0f} s") from None
        except (OSError, ValueError) as error:
            raise MachineFault(f"{self.peer} is gone: {error}") from None
        raise MachineFault(f"{self.peer} is gone")

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):  # what was not sent any more
            self.file.close()
        self.connection.close()


def listen(port: int) -> socket.socket:
    """Be there for the other nodes."""
    return socket.create_server(("", port), backlog=1024)


def accept(listener: socket.socket, deadline: float) -> tuple[Conversation, Any] | None:
    """The next that calls, and what it said first; None once the deadline is over."""
    while (left_s := deadline - time.monotonic()) > 0:
        listener.settimeout(left_s)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return None
        caller = Conversation(connection)
        try:
            return caller, caller.hear(min(HELLO_S, left_s))
        except MachineFault:  # a port scan, or a node that died: who does not come will be missed
            caller.close()
    return None


def call(address: str, port: int, limit_s: float) -> Conversation:
    """Connect to the first node; MachineFault if it does not answer."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return Conversation(socket.create_connection((address, port), timeout=RETRY_S * 10))
        except OSError as error:
            if time.monotonic() > deadline:
                raise MachineFault(
                    f"the first node does not answer at {address}:{port}: {error}"
                ) from None
            time.sleep(RETRY_S)
