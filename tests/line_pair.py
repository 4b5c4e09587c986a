"""Both ends of a connection in one process."""

from __future__ import annotations

import socket

from llm_finetune.distributed.connection import Line


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The calling end and the called one, over loopback: a line needs TCP's options."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        calling = socket.create_connection(server.getsockname())
        return calling, server.accept()[0]


def line_pair() -> tuple[Line, Line]:
    """The same as lines."""
    calling, called = socket_pair()
    return Line(calling), Line(called)
