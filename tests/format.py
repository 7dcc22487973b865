#!/usr/bin/env python3
"""The format gate: every C file is as clang-format 14 writes it.

    tests/format.py tree      check the tree
    tests/format.py canary    show that a wrong file is refused
"""
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["src", "tests", "bench"]


def c_files():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            if "canary" not in path.relative_to(ROOT).parts:
                yield path


def refused(tool, paths):
    done = subprocess.run([tool, "--dry-run", "-Werror", "--style=file", *paths],
                          capture_output=True, text=True)
    return done.returncode != 0, done.stderr


def main(mode):
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if tool is None:
        print("skipped: apt-get install clang-format")
        return 77
    if mode == "canary":
        bad, _ = refused(tool, [ROOT / "tests" / "canary" / "format" / "canary.c"])
        print("refused" if bad else "the canary was not refused")
        return 0 if bad else 1
    bad, text = refused(tool, list(c_files()))
    print(text if bad else "formatted")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "tree"))
