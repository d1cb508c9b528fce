"""The result as markdown: one table for each load, and beside each ratio the aim it is held to.

The driver forms its ratios as a server over the first one; here they are turned round, the first (megasock) over the
peer, so that an aim reads as it is written: at most 0.62 of bun.
"""

# Cores other programs may take before the report says so. Kernel threads alone stay below it.
QUIET_CORES = 0.15
# What is counted, by the driver's row.
WORK = {"echo": ("message", "messages"), "fanout": ("delivery", "deliveries"), "ramp": ("upgrade", "upgrades")}


def markdown(result):
    blocks = [heading(result)]
    blocks += [load_block(load) for load in result["loads"]]
    if result["skipped"]:
        blocks.append("## Skipped\n\n" + "\n".join(f"- **{name}**: {why}" for name, why in result["skipped"].items()))
    return "\n\n".join(blocks) + "\n"


def heading(result):
    host, settings = result["host"], result["settings"]
    lines = [
        "# Peers side by side",
        "",
        f"{result['date']}. {host['cpu']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB, "
        f"Linux {host['kernel']}, hard NOFILE {host['nofile_hard']}.",
        f"Servers on core {settings['server_core']}, driver on core {settings['driver_core']}; windows of "
        f"{settings['window']}, {settings['rounds']} rounds after {settings['warmup']} that do not count.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "Settings: " + "; ".join(f"{name} = {value}" for name, value in host["sysctl"].items()) + ".",
    ]
    if settings["quick"]:
        lines += ["", "**A quick run: it shows that everything works. Its figures are not to be quoted.**"]
    return "\n".join(lines)


def load_block(load):
    title = f"## {load['title']}"
    if "failed" in load:
        return f"{title}\n\nFailed: {load['failed']}"
    turns = load["turns"]
    if turns["row"] == "idle":
        table = idle_table(turns)
    else:
        table = cpu_table(turns, load["aims"])
    return "\n\n".join([f"{title}, {turns['connections']:,} connections", table, *remarks(turns)])


def cpu_table(turns, aims):
    """CPU leads; the rate stands beside it with whoever limited it."""
    targets = turns["targets"]
    (each, many), first = WORK[turns["row"]], targets[0]["name"]
    rows = [
        ["server", f"server CPU µs/{each}", f"{first} ÷ it: CPU", f"{many}/s", f"{first} ÷ it: rate", "limit"]
        + ["server, driver cores", f"whole box µs/{each}", "aim"]
    ]
    for target in targets:
        if "failed" in target or "cpu_ratio" not in target:
            rows.append([target["name"], "failed"] + ["–"] * 7)
            continue
        cpu, rate = target[f"us_per_{each}"], target[f"{many}_per_second"]
        own = target is targets[0]
        rows.append(
            [
                target["name"],
                f"{cpu['median']:.2f}",
                "1" if own else spread(turned(target["cpu_ratio"])),
                f"{rate['median']:,.0f}",
                "1" if own else spread(turned(target["rate_ratio"])),
                target["bottleneck"],
                f"{target['server_cores']:.2f}, {target['driver_cores']:.2f}",
                f"{target['host_us_each']:.2f}",
                verdict(target, aims, first),
            ]
        )
    return aligned(rows)


def idle_table(turns):
    targets = turns["targets"]
    first = targets[0]
    rows = [["server", "resident B/connection", f"{first['name']} ÷ it"]]
    for target in targets:
        if "failed" in target:
            rows.append([target["name"], "failed", "–"])
            continue
        ratio = target.get("rss_ratio") or 0
        share = f"{1 / ratio:.4f}" if ratio > 0 else "–"
        rows.append([target["name"], f"{target['rss_per_connection']:,.0f}", share])
    return aligned(rows)


def verdict(target, aims, first):
    """Met or missed, for the peers an aim names, where megasock is what they are compared with."""
    aim = aims.get(target["name"])
    if aim is None or first != "megasock":
        return ""
    ratio = turned(target[f"{aim.of}_ratio"])["median"]
    met = ratio <= aim.ratio if aim.of == "cpu" else ratio >= aim.ratio
    return f"{'met' if met else 'missed'}: {aim.of} {'≤' if aim.of == 'cpu' else '≥'} {aim.ratio:.2f}"


def remarks(turns):
    """What a reader must know before believing the table."""
    said = [f"{target['name']} failed: {target['failed']}" for target in turns["targets"] if "failed" in target]
    limited = [target["name"] for target in turns["targets"] if target.get("bottleneck") == "driver"]
    if limited:
        said.append(f"The driver was the limit for {', '.join(limited)}: their rate is no server figure.")
    others = [stolen_cores(target) for target in turns["targets"] if "host_us_each" in target]
    if others and max(others) > QUIET_CORES:
        said.append(f"The box was not quiet: other programs took up to {max(others):.2f} cores. Ratios hold less well so.")
    lost = {name: count for name, count in turns["packets"].items() if count}
    if lost:
        counts = ", ".join(f"{name} {count}" for name, count in lost.items())
        said.append(f"Packets were dropped or sent again during these turns ({counts}): only a row without any counts.")
    if turns["interrupted"]:
        said.append("Interrupted before its last round.")
    return said


def stolen_cores(target):
    """What the whole box used beyond server and driver while this server had its turns."""
    own = next(target[name] for name in (f"us_per_{each}" for each, _ in WORK.values()) if name in target)
    box = target["server_cores"] * target["host_us_each"] / own["median"]
    return box - target["server_cores"] - target["driver_cores"]


def turned(ratio):
    """The ratio of the pair the other way round; the quartiles change places."""
    return {"median": 1 / ratio["median"], "q1": 1 / ratio["q3"], "q3": 1 / ratio["q1"]}


def spread(ratio):
    return f"{ratio['median']:.2f} ({ratio['q1']:.2f}–{ratio['q3']:.2f})"


def aligned(rows):
    """A markdown table that is also readable as plain text; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
