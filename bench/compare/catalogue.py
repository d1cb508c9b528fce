"""Who is compared: a table of peers for each kind of work, with their pinned versions and how each is installed and started.

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
# What a server may keep for one subscriber that is behind; no row comes near it.
QUEUE_BYTES_MAX = 4 * 1024 * 1024


class Unavailable(Exception):
    """A peer cannot be had on this host. The text says why."""


@dataclass(frozen=True)
class Peer:
    """`command` and `folder` say how it starts, `install` brings it here, `version` names what is then there.

    `work` is what the server does with a message: "echo" returns it, "fanout" sends it to all, "channels" does so in
    megasock's own protocol.
    """

    name: str
    port: int
    install: Callable[[], None]
    version: Callable[[], str]
    command: list
    folder: Path = HERE
    scheme: str = "ws"
    core_option: str = ""
    path: str = "/echo"
    work: str = "echo"

    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}" + (self.path if self.scheme == "ws" else "")


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


NCHAN = PEERS / "nchan"
NGINX = NCHAN / "usr" / "sbin" / "nginx"
NCHAN_MODULE = NCHAN / "usr" / "lib" / "nginx" / "modules" / "ngx_nchan_module.so"


NGINX_FILES = Path("/var/lib/nginx")


def nchan():
    """nginx and nchan from Debian's packages, unpacked here instead of installed. One folder outside is needed."""
    NCHAN.mkdir(parents=True, exist_ok=True)
    if not NCHAN_MODULE.exists():
        checked(["apt-get", "download", "nginx", "libnginx-mod-nchan"], cwd=NCHAN)
        for package in NCHAN.glob("*.deb"):
            checked(["dpkg-deb", "-x", package, NCHAN])
    checked([NGINX, "-v"])
    # nchan gives nginx a context of its own that keeps Debian's default for temporary files, whatever nchan.conf says.
    try:
        NGINX_FILES.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"nchan keeps files in {NGINX_FILES}: {error}")


def nchan_version():
    packages = {path.name.split("_")[0]: path.name.split("_")[1] for path in NCHAN.glob("*.deb")}
    return ", ".join(f"{name} {version.replace('%3a', ':')}" for name, version in sorted(packages.items()))


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
BUN_PACKAGE, BUN_VERSION = npm("bun", "1.4.5"), lambda: checked([BUN, "--version"])
WS_PACKAGE, WS_VERSION = npm("ws", "8.23.0"), lambda: "8.23.0 on node " + checked(["node", "--version"])
RUST_PEERS = RUST_TARGET / "release" / "compare-peers"
LIMIT = str(MESSAGE_BYTES_MAX)


def megasock(port):
    return [root_target() / "megasock", "--listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0", "--reactors", "1"] + [
        "--max-connections",
        str(CONNECTIONS_MAX),
    ]


# Ports below the ephemeral range (32768 as Linux boots), or a connection of the driver could take one.
ECHO = [
    Peer(
        "megasock",
        9000,
        root_build,
        megasock_version,
        [*megasock(9000), "--max-message-bytes", LIMIT, "--send-queue-bytes-max", str(4 * MESSAGE_BYTES_MAX)],
        core_option="--cores",
    ),
    Peer("floor", 9001, rust, megasock_version, [RUST_PEERS, "floor", "9001", LIMIT], scheme="tcp"),
    Peer(
        "bun",
        9002,
        BUN_PACKAGE,
        BUN_VERSION,
        [BUN, SERVERS / "bun.js", "9002", LIMIT],
    ),
    Peer(
        "ws",
        9003,
        WS_PACKAGE,
        WS_VERSION,
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

FANOUT = [
    Peer(
        "megasock",
        9010,
        root_build,
        megasock_version,
        [*megasock(9010), "--send-queue-bytes-max", str(QUEUE_BYTES_MAX)],
        core_option="--cores",
        path="/ws?user=u{n}",
        work="channels",
    ),
    Peer(
        "bun",
        9011,
        BUN_PACKAGE,
        BUN_VERSION,
        [BUN, SERVERS / "bun_fanout.js", "9011", str(QUEUE_BYTES_MAX)],
        path="/",
        work="fanout",
    ),
    Peer(
        "ws",
        9012,
        WS_PACKAGE,
        WS_VERSION,
        ["node", SERVERS / "ws_fanout.mjs", "9012"],
        folder=PEERS / "ws",
        path="/",
        work="fanout",
    ),
    Peer(
        "nchan",
        9013,
        nchan,
        nchan_version,
        [NGINX, "-p", NCHAN, "-e", "stderr", "-c", SERVERS / "nchan.conf"]
        + ["-g", f"load_module {NCHAN_MODULE}; pid {NCHAN}/nginx.pid;"],
        path="/",
        work="fanout",
    ),
]

CATALOGUE = {"echo": ECHO, "fanout": FANOUT}
PORT_MAX = max(peer.port for peers in CATALOGUE.values() for peer in peers)
NAMES = list(dict.fromkeys(peer.name for peers in CATALOGUE.values() for peer in peers))
