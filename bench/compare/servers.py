"""Starting the servers under test, proving that each echoes, and ending them.

A server counts as started only when it has echoed a text message, a binary message of 1 MiB and nothing else: a peer
that does not do the work is no peer. Only processes started here are ever signalled.
"""

import base64
import hashlib
import os
import resource
import socket
import subprocess
import time

from catalogue import Unavailable

START_TIMEOUT_S = 15
STOP_TIMEOUT_S = 5
PROBE_TIMEOUT_S = 10
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

    def await_echo(self):
        """Waits until it listens, then has it echo. Unavailable when it does neither."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while is_free(self.peer.port):
            if self.process.poll() is not None:
                raise Unavailable(f"ended with {self.process.returncode} at start")
            if time.monotonic() > deadline:
                raise Unavailable(f"did not listen within {START_TIMEOUT_S} s")
            time.sleep(0.02)
        try:
            (probe_tcp if self.peer.scheme == "tcp" else probe_websocket)(self.peer.port)
        except (OSError, ValueError) as error:
            raise Unavailable(f"does not echo: {error}")

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


def probe_tcp(port):
    with connect(port) as stream:
        stream.sendall(PROBES[0][1])
        expect(stream, PROBES[0][1])


def probe_websocket(port):
    """A handshake, then each probe as one masked frame whose echo must be one unmasked frame (RFC 6455, 5.2)."""
    with connect(port) as stream:
        key = base64.b64encode(os.urandom(16)).decode()
        stream.sendall(
            f"GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += exactly(stream, 1)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if b" 101 " not in head.split(b"\r\n")[0] or accept not in head:
            raise ValueError(f"refused the upgrade: {head.splitlines()[0].decode(errors='replace')}")
        for opcode, payload in PROBES:
            # A zero masking key leaves the payload as it is.
            stream.sendall(header(opcode, payload, masked=True) + bytes(4) + payload)
            expect(stream, header(opcode, payload) + payload)


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
