"""Who is compared: one table of peers, each with its pinned versions, how it is installed and how it is started.

Everything is installed below `peers/`, which git ignores; nothing goes into the system. Every peer gets its port and the
largest message it must take; its server sets its other limits (back-pressure above all) from that.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PEERS = HERE / "peers"
SERVERS = HERE / "servers"
INSTALL_TIMEOUT_S = 1200

# 16 MiB of message and room for its frame header.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024 + 1024
# The most connections any row opens to one server; below a hard NOFILE limit of 20,000.
CONNECTIONS_MAX = 15_000


class Unavailable(Exception):
    """A peer cannot be had on this host. The text says why."""


@dataclass(frozen=True)
class Peer:
    """`command` and `folder` say how it starts, `install` brings it here, `version` names what is then there."""

    name: str
    port: int
    install: Callable[[], None]
    version: Callable[[], str]
    command: list
    folder: Path = HERE
    scheme: str = "ws"
    core_option: str = ""

    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}" + ("/echo" if self.scheme == "ws" else "")


def checked(command, **options):
    """Runs `command` quietly; Unavailable with its last words when it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            **options,
        )
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed")
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took longer than {INSTALL_TIMEOUT_S} s")
    if done.returncode:
        last = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise Unavailable(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {last}")
    return done.stdout.strip()


def npm(package, version):
    def install():
        folder = PEERS / package
        if not (folder / "node_modules" / package / "package.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            # bun's post-install step puts the binary in place; newer npm asks for leave to run it.
            checked(["npm", "install", "--no-fund", "--no-audit", "--prefix", folder, f"{package}@{version}"])

    return install


PYTHON = PEERS / "python" / "bin" / "python"


def pypi(package, version, *others):
    def install():
        if not PYTHON.exists():
            checked([sys.executable, "-m", "venv", PEERS / "python"])
        checked([PYTHON, "-m", "pip", "install", "--quiet", f"{package}=={version}", *others])

    return install


UVLOOP = "uvloop==0.23.0"
RUST_TARGET = PEERS / "rust"


def rust():
    checked(
        ["cargo", "build", "--release", "--manifest-path", HERE / "rust" / "Cargo.toml", "--target-dir", RUST_TARGET]
    )


def rust_version(package):
    """The version the lock file of the peers' crate holds."""

    def version():
        lock = (HERE / "rust" / "Cargo.lock").read_text()
        found = re.search(rf'name = "{package}"\nversion = "([^"]+)"', lock)
        return found.group(1) if found else "unknown"

    return version


def root_target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def root_build():
    """megasock and the driver, as released."""
    checked(["cargo", "build", "--release", "--workspace", "--bins"], cwd=ROOT)


def megasock_version():
    revision = checked(["git", "describe", "--always", "--dirty"], cwd=ROOT)
    return f"{checked([root_target() / 'megasock', '--version']).split()[-1]} ({revision})"


BUN = PEERS / "bun" / "node_modules" / "bun" / "bin" / "bun.exe"
RUST_PEERS = RUST_TARGET / "release" / "compare-peers"
LIMIT = str(MESSAGE_BYTES_MAX)

# Ports below the ephemeral range (32768 as Linux boots), or a connection of the driver could take one.
CATALOGUE = [
    Peer(
        "megasock",
        9000,
        root_build,
        megasock_version,
        [root_target() / "megasock", "--listen", "127.0.0.1:9000", "--reactors", "1"]
        + ["--max-connections", str(CONNECTIONS_MAX), "--max-message-bytes", LIMIT]
        + ["--send-queue-bytes-max", str(4 * MESSAGE_BYTES_MAX)],
        core_option="--cores",
    ),
    Peer("floor", 9001, rust, megasock_version, [RUST_PEERS, "floor", "9001", LIMIT], scheme="tcp"),
    Peer(
        "bun",
        9002,
        npm("bun", "1.4.5"),
        lambda: checked([BUN, "--version"]),
        [BUN, SERVERS / "bun.js", "9002", LIMIT],
    ),
    Peer(
        "ws",
        9003,
        npm("ws", "8.23.0"),
        lambda: "8.23.0 on node " + checked(["node", "--version"]),
        ["node", SERVERS / "ws.mjs", "9003", LIMIT],
        folder=PEERS / "ws",
    ),
    Peer(
        "tokio-tungstenite",
        9004,
        rust,
        rust_version("tokio-tungstenite"),
        [RUST_PEERS, "tokio-tungstenite", "9004", LIMIT],
    ),
    Peer(
        "tokio-tungstenite-4k",
        9005,
        rust,
        rust_version("tokio-tungstenite"),
        [RUST_PEERS, "tokio-tungstenite-4k", "9005", LIMIT],
    ),
    Peer(
        "fastwebsockets",
        9006,
        rust,
        rust_version("fastwebsockets"),
        [RUST_PEERS, "fastwebsockets", "9006", LIMIT],
    ),
    Peer(
        "picows",
        9007,
        pypi("picows", "2.3.1", UVLOOP),
        lambda: "2.3.1 on " + checked([PYTHON, "--version"]),
        [PYTHON, SERVERS / "picows_echo.py", "9007", LIMIT],
    ),
    Peer(
        "websockets",
        9008,
        pypi("websockets", "17.4", UVLOOP),
        lambda: "17.4 on " + checked([PYTHON, "--version"]),
        [PYTHON, SERVERS / "websockets_echo.py", "9008", LIMIT],
    ),
]
