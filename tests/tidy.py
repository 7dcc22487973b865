#!/usr/bin/env python3
"""The house rules that no compiler knows: arrows, sizes, words.

    tests/tidy.py tree      check the tree
    tests/tidy.py canary    show that each rule refuses its canary, and that only it does
"""
import os
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CANARIES = ROOT / "tests" / "canary" / "tidy"

# Who may include whom: docs/architecture.md.
USES = {
    "core": set(),
    "cache": {"core"}, "sql": {"core"}, "rpc": {"core"}, "lease": {"core"},
    "watch": {"cache", "core"}, "auth": {"cache", "core"},
    "store": {"cache", "sql", "watch", "lease", "auth", "core"},
    "api": {"store", "watch", "lease", "auth", "cache", "rpc", "proto", "core"},
    "server": {"api", "store", "watch", "lease", "auth", "cache", "sql", "rpc", "core"},
}
# Which module owns which library from outside.
LIBRARIES = {
    "libpq-fe.h": {"sql"}, "sqlite3.h": {"sql"}, "nghttp2/nghttp2.h": {"rpc"},
    "yaml.h": {"server"}, "zlib.h": {"rpc"}, "xxhash.h": {"core"},
    "protobuf-c/protobuf-c.h": {"api"},
}
MUTEX_OWNERS = {"core"}
LINE_MAX, FILE_MAX, FUNCTION_MAX, NESTING_MAX = 100, 1000, 70, 4

C_ENDS = (".c", ".h", ".def")
CODE_ENDS = (*C_ENDS, ".py", ".cmake", ".sh", ".go", ".proto")
TEXT_ENDS = (*CODE_ENDS, ".md", ".txt", ".yaml", ".yml", ".json", ".sql")
SKIPPED_FOLDERS = {".git", "build", "canary", "corpus", "node_modules", "__pycache__", ".venv"}

UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
MACHINE = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work)/\w")
MUTEX = re.compile(r"\b(?:pthread_(?:mutex|rwlock|cond|spin|barrier|once)"
                   r"|uv_(?:mutex|rwlock|cond|sem|barrier|once)_|mtx_|cnd_|call_once|once_flag"
                   r"|sem_(?:t|init|open|wait|trywait|timedwait|post)\b|atomic_flag)")
NO_CODE = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|/\*.*?\*/|//.*')
BLOCK = re.compile(r"(?:\)|\belse|\bdo|:|^)\s*$")
METRIC = re.compile(r"(METRIC|HISTOGRAM)\((\w+),")
INCLUDE = re.compile(r'\s*#\s*include\s*([<"])([^>"]+)[>"]')


def includes(module, lines):
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if match is None:
            continue
        quoted, name = match[1] == '"', match[2]
        target = name.split("/")[0]
        if quoted and "/" not in name:
            yield number, "arrow", f'write "{module}/{name}": includes name their module'
        elif quoted and target != module and target not in USES[module]:
            yield number, "arrow", f"{module} must not include {target}"
        elif not quoted and module not in LIBRARIES.get(name, {module}):
            yield number, "library", f"{module} must not use <{name}>"


def functions(lines):
    """Where functions begin, and their length: a lone brace at the margin opens a body."""
    start = None
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            yield start, number - start + 1
            start = None


def nesting(lines):
    """Lines where a block is deeper than allowed in its function; initializers do not count."""
    open_braces = []
    for number, line in enumerate(lines, 1):
        if line.startswith("{"):
            open_braces = []
        code = NO_CODE.sub("", line)
        for match in re.finditer(r"[{}]", code):
            if match[0] == "{":
                open_braces.append(bool(BLOCK.search(code[:match.start()])))
                if open_braces[-1] and sum(open_braces) > NESTING_MAX + 1:
                    yield number
            elif open_braces:
                open_braces.pop()


def check_source(module, path, lines):
    yield from includes(module, lines)
    if path.suffix == ".h" and not (lines and lines[0].startswith(("/*", "//"))):
        yield 1, "headline", "the first line of a header says what it is"
    if module not in MUTEX_OWNERS:
        for number, line in enumerate(lines, 1):
            if MUTEX.search(line):
                yield number, "mutex", "nobody above src/core has a lock: threads post"


def check_file(root, path):
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    relative = path.relative_to(root)
    if relative.parts[0] == "src" and path.suffix in C_ENDS and len(relative.parts) == 3:
        module = relative.parts[1]
        if module not in USES:
            yield 1, "arrow", f"docs/architecture.md knows no module {module}"
            return
        yield from check_source(module, path, lines)
    if path.suffix in C_ENDS:
        for number, size in functions(lines):
            if size > FUNCTION_MAX:
                yield number, "function", f"{size} lines; at most {FUNCTION_MAX}"
        for number in nesting(lines):
            yield number, "nesting", f"deeper than {NESTING_MAX}"
    is_code = path.suffix in CODE_ENDS or path.name == "CMakeLists.txt" or path.suffix == ""
    if is_code and len(lines) > FILE_MAX and path.name != "LICENSE":
        yield len(lines), "file", f"{len(lines)} lines; at most {FILE_MAX}"
    for number, line in enumerate(lines, 1):
        if is_code and path.suffix != ".go" and len(line) > LINE_MAX:
            yield number, "line", f"{len(line)} columns; at most {LINE_MAX}"
        if UNFINISHED.search(line):
            yield number, "word", "unfinished work belongs into an issue"
        if MACHINE.search(line):
            yield number, "path", "a path of one machine"


def is_text(path):
    if path.suffix in TEXT_ENDS:
        return True
    return path.suffix == "" and os.access(path, os.X_OK)


def check_tree(root):
    count = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS
                            and (not name.startswith(".") or name == ".ci")
                            and not name.startswith("build-"))
        for name in sorted(names):
            path = pathlib.Path(folder) / name
            if is_text(path):
                count += 1
                for number, rule, text in check_file(root, path):
                    yield path.relative_to(root), number, rule, text
    yield from unset_metrics(root)
    if count == 0:
        yield root, 0, "empty", "no file was found"


def unset_metrics(root):
    """A metric that nobody counts would stand in /metrics as a lasting 0."""
    table = root / "src" / "core" / "metrics.def"
    if not table.exists():
        return
    code = "\n".join(path.read_text() for path in sorted((root / "src").glob("*/*.c")))
    for number, line in enumerate(table.read_text().splitlines(), 1):
        match = METRIC.match(line)
        if match and not re.search(rf"\b{match[1]}_{match[2]}\b", code):
            yield table.relative_to(root), number, "metric", f"nobody sets {match[2]}"


def show_canaries():
    """tests/canary/tidy/<rule>/ is a small tree that breaks just that rule, in each canary.*."""
    wanted = {"arrow", "library", "nesting", "proto", "mutex", "headline", "function", "file",
              "line", "word", "path", "metric"}
    missed = 0
    with tempfile.TemporaryDirectory() as made:
        made = pathlib.Path(made)
        trees = {path.name: path for path in CANARIES.iterdir() if path.is_dir()}
        # Too long to keep, and words that the gate would find in itself.
        for rule, text in {"file": "/* x */\n" * (FILE_MAX + 1), "line": "/*" + "x" * 100 + "*/\n",
                           "word": "/* TO" "DO */\n", "path": "/* /ho" "me/someone */\n",
                           "function": "int f(void)\n{\n" + "    ;\n" * FUNCTION_MAX + "}\n",
                           }.items():
            trees[rule] = made / rule
            (trees[rule] / "src" / "core").mkdir(parents=True)
            (trees[rule] / "src" / "core" / "canary.c").write_text(text)
        if set(trees) != wanted:
            print(f"canaries: {sorted(trees)}, wanted: {sorted(wanted)}")
            missed += 1
        for name, root in sorted(trees.items()):
            found = {(path, rule) for path, _, rule, _ in check_tree(root)}
            rule = "arrow" if name == "proto" else name
            expected = {(path.relative_to(root), rule) for path in root.rglob("canary.*")}
            if name == "metric":
                expected = {(pathlib.Path("src/core/metrics.def"), rule)}
            is_good = found == expected and expected
            print(f"{name}: {'refused' if is_good else f'found {found}, not {expected}'}")
            missed += not is_good
    return missed


def main(mode):
    if mode == "canary":
        return 1 if show_canaries() else 0
    count = 0
    for path, number, rule, text in check_tree(ROOT):
        print(f"{path}:{number}: {rule}: {text}")
        count += 1
    print(f"{count} offences")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "tree"))
