"""The application of every server pod: it answers 200 to any HTTP request on the ports it is given, and closes at once.

The end of the answer is the end of the connection, so that bytes which a proxy loses at the end do not go unnoticed.
"""

import asyncio
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nyes\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    servers = [await asyncio.start_server(answer, "", int(port)) for port in sys.argv[1:]]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
