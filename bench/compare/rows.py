"""What is measured: rows of loads, and the ratios the project aims at.

A load is one run of the driver in which all servers are up, hold connections and take turns.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Aim:
    """The ratio of megasock to a peer that is wanted: of `cpu` at most, of `rate` at least. Reported, not enforced."""

    ratio: float
    of: str = "cpu"


@dataclass(frozen=True)
class Load:
    """One run of the driver; `aims` by peer. `row` is the driver's."""

    title: str
    row: str = "echo"
    connections: int = 300
    payload: int = 64
    depth: int = 1
    outstanding: int = 1
    aims: dict = field(default_factory=dict)

    def arguments(self, quick):
        connections = min(self.connections, QUICK_CONNECTIONS[self.row]) if quick else self.connections
        arguments = ["--row", self.row, "--connections", str(connections)]
        if self.row == "echo":
            arguments += ["--payload", str(self.payload), "--depth", str(self.depth)]
        if self.row == "fanout":
            arguments += ["--payload", str(self.payload), "--outstanding", str(self.outstanding)]
        return arguments


QUICK_CONNECTIONS = {"echo": 300, "fanout": 500, "ramp": 2_000, "idle": 2_000}

ONE_OUTSTANDING = {"bun": Aim(0.72), "nchan": Aim(0.5)}
FOUR_OUTSTANDING = {"bun": Aim(0.85), "ws": Aim(0.40), "nchan": Aim(0.5)}

# tokio-tungstenite flushes each message under this echo loop, which is what the pipeline's second aim is about.
ROWS = {
    "echo": [
        Load(
            "echo 64 B",
            aims={
                "bun": Aim(0.62),
                "tokio-tungstenite": Aim(0.70),
                "tokio-tungstenite-4k": Aim(0.70),
                "floor": Aim(1.05),
            },
        ),
        Load(
            "echo 1 KiB",
            payload=1024,
            aims={"bun": Aim(0.62), "tokio-tungstenite": Aim(0.70), "tokio-tungstenite-4k": Aim(0.70)},
        ),
    ],
    "big": [
        Load("echo 16 KiB", payload=16 * 1024, aims={"bun": Aim(0.52)}),
        Load("echo 1 MiB", payload=1024 * 1024, connections=16, aims={"bun": Aim(0.52)}),
    ],
    "pipeline": [
        Load("echo 64 B, 16 deep", depth=16, aims={"bun": Aim(0.55), "tokio-tungstenite": Aim(0.07)}),
    ],
    "fanout-1k": [Load("fan-out 1 → 1,000", row="fanout", connections=1_000, aims=ONE_OUTSTANDING)],
    "fanout-1k-4": [
        Load("fan-out 1 → 1,000, 4 outstanding", row="fanout", connections=1_000, outstanding=4, aims=FOUR_OUTSTANDING)
    ],
    "fanout-10k": [Load("fan-out 1 → 10,000", row="fanout", connections=10_000, aims=ONE_OUTSTANDING)],
    "fanout-10k-4": [
        Load("fan-out 1 → 10,000, 4 outstanding", row="fanout", connections=10_000, outstanding=4, aims=FOUR_OUTSTANDING)
    ],
    "idle": [Load("idle", row="idle", connections=10_000)],
    "ramp": [Load("ramp", row="ramp", connections=15_000, aims={"bun": Aim(1.3, "rate"), "ws": Aim(4, "rate")})],
}


def work(row):
    """What servers must do for a row: the key of their table in the catalogue."""
    return "fanout" if ROWS[row][0].row == "fanout" else "echo"
