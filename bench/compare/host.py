"""What the host is, as the report prints it."""

import os
import platform
import re
import resource
from pathlib import Path

SYSCTLS = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.core.netdev_max_backlog",
    "net.core.somaxconn",
]


def describe():
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
