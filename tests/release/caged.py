"""`ssl-retina` in a process that may speak to 127.0.0.1 only: any other address ends it with code 99."""

import os
import socket
import sys
from typing import Any

connect = socket.socket.connect


def refuse(where: object) -> None:
    """Say where it wanted to go, and end."""
    os.write(2, f"caged: {where}\n".encode())
    os._exit(99)


def only_here(self: socket.socket, address: Any) -> None:
    """`connect` of this machine's own addresses."""
    if self.family == socket.AF_INET and address[0] != "127.0.0.1":
        refuse(address)
    if self.family == socket.AF_INET6:
        refuse(address)
    connect(self, address)


def no_names(host: Any, *arguments: Any, **named: Any) -> Any:
    """No name is looked up."""
    if host not in ("127.0.0.1", b"127.0.0.1"):
        refuse(host)
    return looked_up(host, *arguments, **named)


looked_up = socket.getaddrinfo
socket.socket.connect = only_here  # type: ignore[method-assign]
socket.getaddrinfo = no_names

if __name__ == "__main__":
    from ssl_retina.cli import main

    sys.argv = ["ssl-retina", *sys.argv[1:]]
    main()
