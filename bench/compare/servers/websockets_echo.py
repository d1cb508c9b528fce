"""Echo on Python websockets. Usage: python websockets_echo.py PORT MESSAGE_BYTES_MAX"""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass  # a reset by the driver


async def main(port, message_bytes_max):
    async with serve(
        echo,
        "127.0.0.1",
        port,
        compression=None,
        max_size=message_bytes_max,
        write_limit=4 * message_bytes_max,
        ping_interval=None,
        backlog=4096,
    ):
        await asyncio.get_running_loop().create_future()


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
