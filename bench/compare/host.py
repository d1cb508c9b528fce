"""What the host is, and what all of it did while a row ran.

On loopback the softirq work of one side is billed to the other, so a process's CPU alone is half the story; a lost packet
costs a retransmit of 200 ms, so a row counts only without any.
"""

import os
import platform
import re
import resource
import time
from pathlib import Path

CPU_FIELDS = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"]
SYSCTLS = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.netdev_max_backlog",
    "net.core.somaxconn",
]


def describe():
    """Host, kernel and settings, as the report prints them."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1))
    return {
        "kernel": platform.release(),
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_kib * 1024,
        "nofile_hard": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "sysctl": {name: sysctl(name) for name in SYSCTLS},
    }


def sysctl(name):
    try:
        return " ".join(Path("/proc/sys", *name.split(".")).read_text().split())
    except OSError:
        return "absent"


class Watch:
    """Counters of the whole box, and CPU time of the driver, between start and `read`."""

    def __init__(self):
        self.before = counters()
        self.started = time.monotonic()

    def read(self):
        after, seconds = counters(), time.monotonic() - self.started
        delta = {name: after[name] - self.before[name] for name in after}
        ticks = os.sysconf("SC_CLK_TCK")
        cpu = {name: delta.pop(f"cpu_{name}") / ticks / seconds for name in CPU_FIELDS}
        return {
            "seconds": seconds,
            "box_cores_busy": sum(cpu.values()) - cpu["idle"] - cpu["iowait"] - cpu["steal"],
            "box_cores": cpu,
            "driver_cores_busy": delta["driver_cpu_s"] / seconds,
            "softnet_drops": delta["softnet_drops"],
            "tcp_retransmits": delta["tcp_retransmits"],
        }


def counters():
    cpu = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    read = {f"cpu_{name}": int(value) for name, value in zip(CPU_FIELDS, cpu)}
    softnet = Path("/proc/net/softnet_stat").read_text().splitlines()
    read["softnet_drops"] = sum(int(line.split()[1], 16) for line in softnet)
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")]
    read["tcp_retransmits"] = int(values[names.index("RetransSegs")])
    # Children that have been waited for: servers end after the watch, so in between it is the driver alone.
    driver = resource.getrusage(resource.RUSAGE_CHILDREN)
    read["driver_cpu_s"] = driver.ru_utime + driver.ru_stime
    return read
