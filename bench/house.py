"""The size and shape of the code: `python -m bench.house [CHECKOUT ...]`, side by side.

Lines count docstrings, comments and blank lines. Banned identifiers are names that the package
defines (functions, classes, arguments, variables, attributes) and that hold a word of `BANNED`.
"""

from __future__ import annotations

import ast
import re
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


def main() -> None:
    """Print the figures of each checkout named on the command line; of this one without."""
    roots = [Path(word) for word in sys.argv[1:]] or [Path.cwd()]
    columns = [measure(root) for root in roots]
    for figure in columns[0]:
        print(f"{figure:36}" + "".join(f"{column[figure]:>10,}" for column in columns))


if __name__ == "__main__":
    main()
