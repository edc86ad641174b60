#!/usr/bin/env python3
"""Draws a run of `duo bench --json` as the picture in README: time per decoded token, and bytes of K and V, over depth.

usage: duo bench ... --json | bench/picture.py OUT.svg        (it needs gnuplot)"""

import json
import subprocess
import sys

# Line styles and points differ too, so that the lines are distinct without colour.
STYLES = ["lc rgb '#2563eb' dt 1 pt 7", "lc rgb '#f97316' dt 2 pt 5", "lc rgb '#16a34a' dt 3 pt 9"]


def lines_of(run):
    """{title: [(depth, milliseconds per token, GiB of K and V), ...]} of the decode tests, in the run's order."""
    lines = {}
    for row in run["rows"]:
        if row["test"] == "decode":
            title = "%s, %s K and V" % (row["mode"], row["kv_type"])
            lines.setdefault(title, []).append((row["depth"], row["ms_per_token_median"], row["kv_bytes"] / 2**30))
    if not lines:
        raise SystemExit("bench/picture.py: the run has no decode tests")
    if len(lines) > len(STYLES):
        raise SystemExit("bench/picture.py: %d modes, expected at most %d" % (len(lines), len(STYLES)))
    return lines


def script(run, out):
    lines = lines_of(run)
    depths = sorted({depth for points in lines.values() for depth, _, _ in points})
    tics = ", ".join("'%s' %d" % ("%dk" % (d // 1024) if d else "0", d) for d in depths)
    text = ["set terminal svg size 900,360 font 'sans-serif,13' background rgb 'white'", "set output '%s'" % out,
            "set tics out nomirror", "set grid lc rgb '#94a3b8' lw 0.5", "set xtics (%s)" % tics,
            "set yrange [0:*]", "set xlabel 'tokens in the cache'"]  # fmt: skip
    for number, points in enumerate(lines.values()):
        text += ["$d%d << EOD" % number] + ["%d %g %g" % point for point in points] + ["EOD"]
    text.append("set multiplot layout 1,2")
    for column, title in [(2, "milliseconds per token"), (3, "GiB of K and V")]:
        text += ["set title '%s'" % title] + (["unset key"] if column == 2 else ["set key top left Left reverse samplen 3"])
        plots = ["$d%d using 1:%d with linespoints lw 2 %s title '%s'" % (number, column, STYLES[number], name)
                 for number, name in enumerate(lines)]  # fmt: skip
        text.append("plot " + ", ".join(plots))
    return "\n".join(text + ["unset multiplot", ""])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    subprocess.run(["gnuplot", "-d"], input=script(json.load(sys.stdin), sys.argv[1]), text=True, check=True)
