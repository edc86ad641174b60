#!/usr/bin/env python3
"""Prints the table of tools/device_check.sh: the measured figures beside the wanted ones.

usage: device_table.py FOLDER
"""

import json
import os
import sys


def load(folder, name):
    try:
        with open(os.path.join(folder, name + ".json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def rows_of(bench, test):
    return [row for row in bench["rows"] if row["test"] == test] if bench else []


def pairs(bench, test):
    """(depth, full row, duo row) for every depth that has both rows."""
    found = {}
    for row in rows_of(bench, test):
        found.setdefault(row["depth"], {}).setdefault(row["mode"], row)
    return [(depth, modes["full"], modes["duo"]) for depth, modes in sorted(found.items()) if len(modes) == 2]


def decode_types(folder):
    wanted = {"bf16": 0.80, "int8": 0.65, "int4": 0.55}
    for row in rows_of(load(folder, "decode_types"), "decode"):
        share = row["attention_gb_s"] / row["read_gb_s"]
        if row["mode"] == "full":
            yield (f"decode attention {row['kv_type']} at {row['depth']}: share of copy bandwidth", share,
                   wanted.get(row["kv_type"]))


def prefill(folder):
    bench = load(folder, "prefill")
    for row in rows_of(bench, "prefill"):
        if row["mode"] == "full":
            ceiling = bench["ceilings"]["gemm_bf16_gflop_s"]
            yield f"prefill attention at {row['depth']}: share of bf16 matmul", row["attention_gflop_s"] / ceiling, 0.50


def ratios(folder, name, decode, memory, prefill_wanted):
    bench = load(folder, name)
    for depth, full, duo in pairs(bench, "decode"):
        yield f"{name} at {depth}: decode, full over duo", full["ms_per_token"] / duo["ms_per_token"], decode
        fixed = bench["model"]["weights_bytes"]
        yield (f"{name} at {depth}: weights and KV, full over duo",
               (fixed + full["kv_bytes"]) / (fixed + duo["kv_bytes"]), memory)
    for depth, full, duo in pairs(bench, "prefill"):
        yield f"{name} at {depth}: prefill, full over duo", full["ms_per_token"] / duo["ms_per_token"], prefill_wanted


def capacity(folder):
    bench = load(folder, "capacity")
    for row in rows_of(bench, "decode"):
        yield f"tokens at that depth, {row['ms_per_token']:.1f} ms each", row["depth"], 3.3e6
        yield "GB of device memory taken (at most 80)", bench["device_bytes"] / 1e9, None


def main(folder):
    print(f"{'':72} {'measured':>10} {'wanted':>8}")
    lines = [*decode_types(folder), *prefill(folder), *ratios(folder, "llama3_8b", 1.50, 1.67, 1.63),
             *ratios(folder, "llama3_8b_prefill", None, None, 1.63), *ratios(folder, "llama2_7b", 2.18, 2.55, 1.73),
             *capacity(folder)]
    for what, measured, wanted in lines:
        verdict = "" if wanted is None else "ok" if measured >= wanted else "SHORT"
        shown = f"{measured:10.3g}" if measured < 1000 else f"{measured:10.0f}"
        print(f"{what:72} {shown} {'' if wanted is None else wanted:>8} {verdict}")
    with open(os.path.join(folder, "results.tsv"), encoding="utf-8") as file:
        for line in file:
            name, result, seconds = line.rstrip("\n").split("\t")
            print(f"{name:72} {result:>10} {seconds:>6} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
