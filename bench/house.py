"""The size, shape and start of the code: `python -m bench.house [CHECKOUT ...]`, side by side.

Lines count docstrings, comments and blank lines. Banned identifiers are names that the package
defines (functions, classes, arguments, variables, attributes) and that hold a word of `BANNED`.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BANNED = frozenset(
    [
        "told",
        "tell",
        "tells",
        "said",
        "say",
        "says",
        "asked",
        "given",
        "taken",
        "wanted",
        "most",
        "whoever",
    ]
)
"""Words that name no thing: a reader has to look up what they stand for."""
LONG_FILE, LONG_FUNCTION = 400, 40
RUNS = 7
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a module defines, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, getattr(node, "lineno", 0)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                yield name, getattr(node, "lineno", 0)


def banned_names(source: str) -> list[tuple[str, int]]:
    """Return the defined names that hold a banned word, each once, with its first line."""
    found: dict[str, int] = {}
    for name, line in defined_names(ast.parse(source)):
        if BANNED & {word.lower() for word in _WORD.findall(name)}:
            found.setdefault(name, line)
    return sorted(found.items())


def long_functions(source: str) -> list[str]:
    """Return the functions of more than LONG_FUNCTION lines."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONG_FUNCTION
    ]


def measure(root: Path) -> dict[str, int]:
    """Return the figures of one checkout."""
    package = root / "rq_clock"
    sources = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    scripts = [path.read_text() for path in package.rglob("*.lua")]
    tests = [path.read_text() for path in (root / "tests").rglob("*.py")]
    top = [p for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]

    def lines(texts: list[str]) -> int:
        return sum(text.count("\n") for text in texts)

    return {
        "lines of Python in rq_clock/": lines(list(sources.values())),
        "lines of Lua": lines(scripts),
        "lines of tests": lines(tests),
        f"files over {LONG_FILE} lines": sum(
            text.count("\n") > LONG_FILE for text in sources.values()
        ),
        "banned identifiers": sum(len(banned_names(text)) for text in sources.values()),
        f"functions over {LONG_FUNCTION} lines": sum(
            len(long_functions(text)) for text in sources.values()
        ),
        "packages at the top level": sum(path.is_dir() for path in top),
        "modules at the top level": sum(path.is_file() for path in top),
    }


def start(root: Path) -> dict[str, float]:
    """Return what it costs to start Python with a checkout: the least of a few runs."""
    python = root / ".venv" / "bin" / "python"
    found = {}
    for what, *words in (
        ("rq-clock --help", "-m", "rq_clock", "--help"),
        ("import rq_clock", "-c", "import rq_clock"),
        ("import of the clock process", "-c", "import rq_clock.clock, rq_clock.testing"),
    ):
        runs = [_run(python, words, root) for _ in range(RUNS)]
        found[f"{what}: CPU ms"] = min(milliseconds for milliseconds, _ in runs)
        found[f"{what}: memory MB"] = min(megabytes for _, megabytes in runs)
    return found


def _run(python: Path, words: list[str], root: Path) -> tuple[float, float]:
    """Return the CPU time in ms and the peak memory in MB of a process."""
    process = subprocess.Popen([python, *words], cwd=root, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    return (usage.ru_utime + usage.ru_stime) * 1000, usage.ru_maxrss / 1024


def main() -> None:
    """Print the figures of each checkout named on the command line; of this one without."""
    roots = [Path(word) for word in sys.argv[1:]] or [Path.cwd()]
    columns = [measure(root) for root in roots]
    for figure in columns[0]:
        print(f"{figure:42}" + "".join(f"{column[figure]:>10,}" for column in columns))
    starts = [start(root) for root in roots]
    for figure in starts[0]:
        print(f"{figure:42}" + "".join(f"{column[figure]:>10.1f}" for column in starts))


if __name__ == "__main__":
    main()
