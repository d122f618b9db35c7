"""The application of every server pod: it answers 200 to any HTTP request on the ports it is given, and closes at once.
A port given as `9000=403` answers 403, and without a body, as an external authorizer does.

The end of the answer is the end of the connection, so that bytes which a proxy loses at the end do not go unnoticed.
"""

import asyncio
import functools
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nyes\n"
VERDICT = "HTTP/1.1 {} Decided\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def answer(said: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    servers = []
    for argument in sys.argv[1:]:
        port, _, status = argument.partition("=")
        said = VERDICT.format(status).encode() if status else ANSWER
        servers.append(await asyncio.start_server(functools.partial(answer, said), "", int(port)))
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
