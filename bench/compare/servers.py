"""Starting the servers under test, proving that each does its work, and ending them.

A server counts as started only when it has echoed a text message, a binary message of 1 MiB and nothing else, or has
brought what one of two clients says to both: a peer that does not do the work is no peer. Only processes started here are
ever signalled.
"""

import base64
import hashlib
import json
import os
import resource
import socket
import subprocess
import time

from catalogue import Unavailable

START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 5
PROBE_TIMEOUT_S = 10
SUBSCRIBE_S = 0.1
PROBES = [(0x1, "naïve ✓".encode()), (0x2, bytes(range(256)) * 4096)]


class Server:
    """One running peer, pinned to a core."""

    def __init__(self, peer, core, log):
        self.peer = peer
        if not is_free(peer.port):
            raise Unavailable(f"port {peer.port} is taken")
        command = [str(part) for part in peer.command]
        if peer.core_option:
            command += [peer.core_option, str(core)]
        try:
            self.process = subprocess.Popen(
                command,
                cwd=peer.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: prepare(core),
            )
        except OSError as error:
            raise Unavailable(f"does not start: {error}")

    def await_work(self):
        """Waits until it listens, then has it work once. Unavailable when it does neither."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while is_free(self.peer.port):
            if self.process.poll() is not None:
                raise Unavailable(f"ended with {self.process.returncode} at start")
            if time.monotonic() > deadline:
                raise Unavailable(f"did not listen within {START_TIMEOUT_S} s")
            time.sleep(0.02)
        probe = probe_tcp if self.peer.scheme == "tcp" else PROBE_OF_WORK[self.peer.work]
        try:
            probe(self.peer.port, self.peer.path)
        except (OSError, ValueError) as error:
            raise Unavailable(f"does not {self.peer.work}: {error}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def target(self):
        """How the driver is told of it."""
        return f"{self.peer.name}={self.process.pid}@{self.peer.url()}"


def prepare(core):
    """In the child: one core, and as many descriptors as the hard limit gives."""
    os.sched_setaffinity(0, {core})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def is_free(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def probe_tcp(port, _):
    with connect(port) as stream:
        stream.sendall(PROBES[0][1])
        expect(stream, PROBES[0][1])


def probe_echo(port, path):
    """Each probe as one masked frame, whose echo must be one unmasked frame (RFC 6455, 5.2)."""
    with upgraded(port, path) as stream:
        for opcode, payload in PROBES:
            say(stream, opcode, payload)
            expect(stream, header(opcode, payload) + payload)


def probe_fanout(port, path):
    """What one of two clients says reaches both."""
    with upgraded(port, path) as first, upgraded(port, path) as second:
        # A subscription may stand a moment after its upgrade.
        time.sleep(SUBSCRIBE_S)
        opcode, payload = PROBES[0]
        say(first, opcode, payload)
        for stream in (first, second):
            while heard(stream) != payload:
                pass  # nchan tells the publisher of its subscribers first


def probe_channels(port, path):
    """The same in megasock's channel protocol."""
    path = path.replace("{n}", "probe")
    with upgraded(port, path) as first, upgraded(port, path) as second:
        for stream in (first, second):
            say(stream, 0x1, b'{"type":"subscribe","id":1,"channel":"probe"}')
            until(stream, "subscribed")
        say(first, 0x1, b'{"type":"publish","channel":"probe","data":"to both"}')
        for stream in (first, second):
            if until(stream, "message")["data"] != "to both":
                raise ValueError("other data came")


PROBE_OF_WORK = {"echo": probe_echo, "fanout": probe_fanout, "channels": probe_channels}


def upgraded(port, path):
    """A connection after its handshake."""
    stream = connect(port)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(stream, 1)
    accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
    if b" 101 " not in head.split(b"\r\n")[0] or accept not in head:
        raise ValueError(f"refused the upgrade: {head.splitlines()[0].decode(errors='replace')}")
    return stream


def say(stream, opcode, payload):
    # A zero masking key leaves the payload as it is.
    stream.sendall(header(opcode, payload, masked=True) + bytes(4) + payload)


def heard(stream):
    """The payload of the next frame; what a probe asks for is short."""
    _, length = exactly(stream, 2)
    if length == 126:
        length = int.from_bytes(exactly(stream, 2), "big")
    return exactly(stream, length)


def until(stream, kind):
    """The next frame of this type in the channel protocol."""
    while True:
        frame = json.loads(heard(stream))
        if frame["type"] == "error":
            raise ValueError(f"refused: {frame}")
        if frame["type"] == kind:
            return frame


def header(opcode, payload, masked=False):
    length, mask = len(payload), 0x80 if masked else 0
    if length < 126:
        return bytes([0x80 | opcode, mask | length])
    if length < 1 << 16:
        return bytes([0x80 | opcode, mask | 126]) + length.to_bytes(2, "big")
    return bytes([0x80 | opcode, mask | 127]) + length.to_bytes(8, "big")


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=PROBE_TIMEOUT_S)


def expect(stream, expected):
    if exactly(stream, len(expected)) != expected:
        raise ValueError("other bytes came back")


def exactly(stream, count):
    received = bytearray()
    while len(received) < count:
        chunk = stream.recv(count - len(received))
        if not chunk:
            raise ValueError("closed early")
        received += chunk
    return bytes(received)
