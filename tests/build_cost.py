#!/usr/bin/env python3
"""Measures what the two commands of README.md cost to compile: CPU seconds of each crate.

    python tests/build_cost.py [--commit REV] [--only demo|tests] [--keep DIR] [--top N]

Clones this repository into an empty folder and runs both commands there, each compiler process
behind a wrapper that notes its CPU time. The tests are compiled, not run. CPU seconds hardly depend
on what else the machine does; the minutes do.
"""

import argparse
import collections
import os
import pathlib
import resource
import stat
import subprocess
import sys
import tempfile
import time

WRAPPER = """#!/bin/bash
# cargo calls this with the compiler and its arguments.
name=-
kind=lib
for ((i = 1; i <= $#; i++)); do
    case "${!i}" in
        --crate-name) next=$((i + 1)); name=${!next} ;;
        --test) kind=test ;;
    esac
done
TIMEFORMAT='%U %S'
{ time "$@" 2>&3; } 3>&2 2>"$BUILD_COST_DIR/$$.time"
status=$?
echo "$(tail -n 1 "$BUILD_COST_DIR/$$.time") $kind $name" >>"$BUILD_COST_DIR/log.$BUILD_COST_STEP"
rm -f "$BUILD_COST_DIR/$$.time"
exit $status
"""

STEPS = {
    "demo": ["cargo", "run", "--release", "--", "demo"],
    "tests": ["cargo", "test", "--release", "--workspace", "--no-run"],
}


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--commit", default="HEAD", help="the state to measure [default: HEAD]")
    arguments.add_argument("--only", choices=STEPS, help="one of the two commands")
    arguments.add_argument("--keep", help="clone into this folder and leave it there")
    arguments.add_argument("--top", type=int, default=15, help="crates in the table [default: 15]")
    arguments = arguments.parse_args()
    here = pathlib.Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        clone = pathlib.Path(arguments.keep or scratch / "clone").resolve()
        subprocess.run(["git", "clone", "-q", "--no-checkout", str(here), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "-q", arguments.commit], check=True)
        wrapper = scratch / "wrapper"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CARGO_") or k == "CARGO_HOME"}
        environment |= {"RUSTC_WRAPPER": str(wrapper), "BUILD_COST_DIR": str(scratch)}
        for step, command in STEPS.items():
            if arguments.only not in (None, step):
                continue
            before, start = cpu_of_children(), time.monotonic()
            environment["BUILD_COST_STEP"] = step
            done = subprocess.run(command, cwd=clone, env=environment, stdout=subprocess.DEVNULL)
            if done.returncode != 0:
                sys.exit(f"error: `{' '.join(command)}` ended with {done.returncode}")
            total, minutes = cpu_of_children() - before, (time.monotonic() - start) / 60
            crates = collections.Counter()
            for line in (scratch / f"log.{step}").read_text().splitlines():
                user, system, kind, name = line.split()
                name = "build scripts" if name.startswith("build_script_") else name
                crates[name + (" (tests)" if kind == "test" else "")] += float(user) + float(system)
            crates["C, build scripts that run, the command itself"] = total - sum(crates.values())
            print(f"\n`{' '.join(command)}`: {total:,.0f} CPU s, {minutes:.1f} minutes on {os.cpu_count()} cores\n")
            print("| crate | CPU s |\n|---|---:|")
            dearest = crates.most_common(arguments.top)
            for name, seconds in dearest:
                print(f"| {name} | {seconds:.1f} |")
            rest = total - sum(seconds for _, seconds in dearest)
            print(f"| the other {len(crates) - len(dearest)} | {rest:.1f} |", flush=True)


if __name__ == "__main__":
    main()
