#!/usr/bin/env python3
"""Planted bugs: each patch must apply, build, and be found by the simulation within its seeds.

    planted.py BUILD_DIR [--only NAME] [--jobs N]
    planted.py BUILD_DIR --canary        a patch that breaks nothing, and one that does not apply

Only the files that a patch touches are compiled again, with the very command of the build; the rest
comes from the libraries of the build. All of them together take less than a minute on two cores.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATCHES = pathlib.Path(__file__).resolve().parent / "planted"
SIM = ["sim", "world", "client", "model", "check", "watchers"]


def commands(build):
    """Each source file of ours with the command that compiles it."""
    table = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = pathlib.Path(entry["file"])
        if source.is_relative_to(ROOT):
            table[str(source.relative_to(ROOT))] = (
                shlex.split(entry["command"]), entry["directory"])
    return table


def users(tree, touched):
    """Source files to compile again: those touched, and those that include a touched header."""
    sources = {name for name in touched if name.endswith(".c")}
    headers = {name for name in touched if name.endswith(".h")}
    if headers:
        folders = {str(pathlib.Path(name).parent) for name in headers}
        for path in list(tree.glob("src/*/*.c")) + list(tree.glob("tests/sim/*.c")):
            name = str(path.relative_to(tree))
            if path.name.startswith("test_"):
                continue  # A program of its own.
            text = path.read_text()
            if any(f'"{pathlib.Path(h).relative_to("src")}"' in text or
                   (str(pathlib.Path(name).parent) in folders and pathlib.Path(h).name in text)
                   for h in headers):
                sources.add(name)
    return sorted(sources)


def compile_one(tree, table, name, out):
    command, folder = table[name]
    command = [arg for arg in command if arg != "-Werror" and not arg.endswith("ccache")]
    fixed = []
    skip = False
    for arg in command:
        if skip or arg in ("-MD",):
            skip = False
            continue
        if arg in ("-o", "-MF", "-MT"):
            skip = True
            continue
        fixed.append(arg.replace(str(ROOT) + "/src", str(tree) + "/src")
                     .replace(str(ROOT) + "/tests/sim", str(tree) + "/tests/sim"))
    subprocess.run(fixed + ["-w", "-o", str(out)], cwd=folder, check=True)


def run_patch(build, table, patch):
    text = patch.read_text()
    seeds = int(re.search(r"^Seeds: (\d+)$", text, re.M)[1])
    touched = re.findall(r"^\+\+\+ b/(\S+)$", text, re.M)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        tree = pathlib.Path(folder)
        shutil.copytree(ROOT / "src", tree / "src")
        shutil.copytree(ROOT / "tests/sim", tree / "tests/sim")
        done = subprocess.run(["patch", "-p1", "-s", "--fuzz=2", "-i", str(patch)], cwd=tree,
                              capture_output=True, text=True)
        if done.returncode != 0:
            return patch.stem, False, "does not apply: " + done.stdout.strip().replace("\n", " ")
        objects = []
        built = {f"tests/sim/{name}.c" for name in SIM}
        for name in users(tree, touched):
            out = tree / (name.replace("/", "_") + ".o")
            compile_one(tree, table, name, out)
            objects.append(str(out))
            built.discard(name)
        for name in sorted(built):
            objects.append(str(build / "sim/CMakeFiles/sim.dir" / (pathlib.Path(name).name + ".o")))
        libs = [str(build / "sim/libfake_log.a")]
        libs += [str(build / f"lib{lib}.a") for lib in
                 ("store", "watch", "lease", "sql", "cache", "core")]
        how = [arg for arg in table["tests/sim/sim.c"][0] if not arg.endswith("ccache")]
        link = how[:1] + [arg for arg in how if arg.startswith(("-fsanitize", "--coverage"))]
        link += ["-o", str(tree / "sim")] + objects
        link += ["-Wl,--start-group"] + libs + ["-Wl,--end-group"]
        link += ["-luv", "-lxxhash", "-lpq", "-lsqlite3", "-lpthread"]
        subprocess.run(link, check=True)
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
        env.pop("DROVER_SEED", None)
        sim = subprocess.run([str(tree / "sim"), "--first", "1", "--seeds", str(seeds)],
                             capture_output=True, text=True, env=env, errors="replace")
    took = time.monotonic() - began
    said = re.search(r"sim: seed (\d+).*", sim.stderr) or re.search(r".*panic.*", sim.stderr)
    line = said[0] if said else sim.stderr.strip().split("\n")[0]
    if sim.returncode == 0:
        return patch.stem, False, f"not found within {seeds} seeds ({took:.1f} s)"
    return patch.stem, True, f"{line[:110]} ({took:.1f} s)"


CANARIES = {
    "harmless": ("enum { POLL_FASTEST_MS = 5 };", "enum { POLL_FASTEST_MS = 6 };"),
    "astray": ("enum { POLL_FASTEST_MS = 555 };", "enum { POLL_FASTEST_MS = 6 };"),
}


def canary(build, table):
    """Both must be told as missed, else this script would not notice anything."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for name, (old, new) in CANARIES.items():
            file = "src/store/tail.c"
            path = pathlib.Path(folder) / f"{name}.patch"
            path.write_text(f"Seeds: 20\n\n--- a/{file}\n+++ b/{file}\n@@ -10,1 +10,1 @@\n"
                            f"-{old}\n+{new}\n")
            _, found, what = run_patch(build, table, path)
            print(f"{name}: {what}")
            if found:
                return 1
    return 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--only")
    parser.add_argument("--canary", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    build = args.build.resolve()
    if args.canary:
        return canary(build, commands(build))
    patches = sorted(PATCHES.glob("*.patch"))
    if args.only:
        patches = [patch for patch in patches if args.only in patch.stem]
    if not patches:
        print("no patch is called so")
        return 1
    table = commands(build)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for name, found, what in pool.map(lambda patch: run_patch(build, table, patch), patches):
            print(f"{'found ' if found else 'MISSED'} {name}: {what}", flush=True)
            failed += not found
    print(f"{len(patches) - failed} of {len(patches)} planted bugs were found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
