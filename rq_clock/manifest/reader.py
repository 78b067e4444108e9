"""Reads an untrusted YAML or JSON text as plain data: texts, numbers, booleans, null, lists, and
mappings with texts as keys.

- A text cannot grow or make objects: tags, anchors and aliases are refused; length and depth have
  limits.
- In YAML, `on`, `12:30`, `0123` and `2026-03-01` are texts; only JSON's numbers, true, false and
  null are not. PyYAML's output reads back unchanged.
- A key that comes twice is a fault; neither value wins.

Pure; every error is a ScheduleError that names the line, if known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from rq_clock.errors import Fault, ScheduleError
from rq_clock.manifest.fields import key_shown
from rq_clock.redaction import printable

LONGEST = 32 * 1024 * 1024
"""Maximum characters of a text: some hundred thousand schedules."""
DEEPEST = 70
"""Maximum levels of lists and mappings: those of arguments, and those around them."""

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,4000})(?P<float>\.[0-9]+(?:[eE][-+][0-9]+)?)?")
_WORDS: dict[str, Any] = {"": None, "~": None}
for _word, _meant in (("null", None), ("true", True), ("false", False)):
    _WORDS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _meant)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Only its parser is used: it yields events and makes no objects."""


@dataclass(slots=True)
class Plain:
    """A text's value. `lines` has the line of each key of the two upper levels by path (YAML only);
    `twice` has the faults of keys that come twice."""

    value: Any = None
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    twice: list[Fault] = field(default_factory=list)


def read(text: str) -> Plain:
    """Return the value of a text: JSON if it begins with a brace, else YAML."""
    if len(text) > LONGEST:
        raise ScheduleError(f"expected a text of at most {LONGEST:,} characters; divide it")
    text = text.removeprefix("\ufeff")
    return _from_json(text) if text.lstrip()[:1] == "{" else _from_yaml(text)


# ---- JSON -------------------------------------------------------------------------------------


def _from_json(text: str) -> Plain:
    plain = Plain()

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                plain.twice.append(Fault("", f"{key_shown(key)} comes twice"))
            found[key] = value
        return found

    def refuse(constant: str) -> None:
        raise ScheduleError(f"expected JSON, got {constant}")

    try:
        plain.value = json.loads(text, object_pairs_hook=mapping, parse_constant=refuse)
    except json.JSONDecodeError as error:
        fault = Fault("", f"expected JSON: {error.msg}", line=error.lineno)
        raise ScheduleError(fault) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of thousands of digits
        raise ScheduleError(f"expected JSON: {error}") from None
    if _depth_exceeds(plain.value, DEEPEST):
        raise _too_deep()
    return plain


def _depth_exceeds(value: Any, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    values = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_exceeds(v, limit - 1) for v in values)


def _too_deep(line: int | None = None) -> ScheduleError:
    text = f"expected at most {DEEPEST} levels of lists and mappings"
    return ScheduleError(Fault("", text, line=line))


# ---- YAML -------------------------------------------------------------------------------------


def _from_yaml(text: str) -> Plain:
    try:
        return _Reader(text).whole()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        if "maximum nesting depth" in str(error.problem):  # libyaml's own bound, above ours
            raise _too_deep(mark.line + 1 if mark else None) from None
        text = f"expected YAML: {printable(str(error.problem or error.context), 200)}"
        line = mark.line + 1 if mark else None
        raise ScheduleError(Fault("", text, line=line)) from None
    except yaml.YAMLError as error:
        problem = printable(str(error).splitlines()[0], 200)
        raise ScheduleError(f"expected YAML: {problem}") from None


class _Reader:
    """Builds the value of a text from its events."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._plain = Plain()

    def whole(self) -> Plain:
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _refused(event, "expected one document, got a second one")
                self._plain.value = self._value(next(self._events), ())
        return self._plain

    def _value(self, event: Any, path: tuple[str, ...]) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            name = f"{'*' if isinstance(event, yaml.AliasEvent) else '&'}{event.anchor}"
            raise _refused(event, f"expected no anchors and aliases, got {name}")
        if event.tag is not None:
            raise _refused(event, f"expected no tags, got {printable(event.tag, 50)}")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if len(path) == DEEPEST:
            raise _too_deep(_line(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(e, (*path, "")) for e in self._until(yaml.SequenceEndEvent)]
        return self._mapping(path)

    def _mapping(self, path: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _refused(event, "expected a word as a key")
            self._value(event, path)  # which refuses tags and anchors
            key = event.value
            value = self._value(next(self._events), (*path, key))
            if key in found:
                owner = path[1] if len(path) > 1 else ""
                text = f"{key_shown(key)} comes twice"
                self._plain.twice.append(Fault("", text, schedule=owner, line=_line(event)))
            elif len(path) < 2:
                self._plain.lines[(*path, key)] = _line(event)
            found[key] = value
        return found

    def _until(self, end: type) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield event


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _refused(event: Any, text: str) -> ScheduleError:
    return ScheduleError(Fault("", text, line=_line(event)))


def _scalar(event: Any) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    return float(text) if match["float"] else int(text)
