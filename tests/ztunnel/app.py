"""An app for a pod: HTTP/1.1 on 5000, and one that sends and hangs up on 2600.

On 2500, and by an IPv6 socket on 2501, there is an echo that speaks first.
"""

import asyncio
import socket
import sys

GREETING = b"220 ready\r\n"


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("peername")[0]
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.split(b"\r\n")[0]
            body = b"%s got %s from %s\n" % (sys.argv[1].encode(), line, peer.encode())
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head if line.startswith(b"HEAD") else head + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(GREETING)
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def much(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"x" * 3_000_000)
    await writer.drain()
    writer.close()


async def main() -> None:
    for handler, port in ((http, 5000), (echo, 2500), (much, 2600)):
        await asyncio.start_server(handler, ["0.0.0.0", "::"], port)
    await asyncio.start_server(
        echo, sock=socket.create_server(("::", 2501), family=socket.AF_INET6, dualstack_ipv6=True)
    )
    print("listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
