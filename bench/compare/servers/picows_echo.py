"""Echo on picows, which hands over single frames: the driver sends unfragmented messages.

Usage: python picows_echo.py PORT MESSAGE_BYTES_MAX
"""

import sys

import uvloop
from picows import WSListener, WSMsgType, ws_create_server


class Echo(WSListener):
    message_bytes_max = 0

    def on_ws_connected(self, transport):
        transport.underlying_transport.set_write_buffer_limits(high=4 * self.message_bytes_max)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


async def main(port, message_bytes_max):
    Echo.message_bytes_max = message_bytes_max
    server = await ws_create_server(
        lambda request: Echo(), "127.0.0.1", port, max_frame_size=message_bytes_max, backlog=4096
    )
    await server.serve_forever()


uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
