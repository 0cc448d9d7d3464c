"""From a YAML node tree to the structs of schema.py, with every problem's line.

The tree is walked by the structs' own types, so that a wrong value is known by its path and line, and one wrong value
does not hide the next. What is wrong is left at its default; the caller throws the result away unless `problems` is
empty, but can still run the rules that compare keys (rules.py) on what was good.

Scalars are resolved more strictly than YAML 1.1 would: no octal numbers, no sexagesimal ones, and a text that YAML
would take for something else is refused with the advice to quote it. A section or list whose key stands there without
a value (all below it commented out) keeps its default.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta
from msgspec.inspect import is_struct_type

from fastrelay.config.base import Origins
from fastrelay.config.forms import MISSING, SYNONYMS, TEXTS
from fastrelay.config.units import parse_connections, parse_duration, parse_share, parse_size
from fastrelay.errors import ConfigProblem

BAD: Any = object()

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9_]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9_]*)(?:\.[0-9]+)?")

QUANTITIES: dict[str, tuple[Callable[[str], float], str]] = {
    "duration": (parse_duration, "a duration such as 30s or 4h"),
    "size": (parse_size, "a size such as 64KiB or 100MiB"),
    "share": (parse_share, "a percentage such as 10%"),
    "connections": (parse_connections, "a number of connections such as 20"),
}


# Stand-ins for required keys that are faulty, so that the rules can still look at the rest.
PLACEHOLDERS = {"hostname": "hostname.invalid"}


def describe(node: yaml.Node) -> str:
    """What stands there, for a person."""
    if isinstance(node, yaml.MappingNode):
        return "a section of keys"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = node.tag.removeprefix(_TAG)
    text = str(node.value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    words = {
        "null": "nothing",
        "bool": f"the yes/no value {shown}",
        "int": f"the number {shown}",
        "float": f"the number {shown}",
    }
    return words.get(kind, f"the text {shown!r}")


def is_null(node: yaml.Node) -> bool:
    """True for a key without a value."""
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


@lru_cache(maxsize=256)
def fields_of(kind: Any) -> list[Any]:
    """The fields of a struct that a file may have. (Kept: msgspec reads the annotations anew each time.)"""
    return [field for field in msgspec.structs.fields(kind) if field.type is not Origins]


class TreeReader:
    """Reads one document. `problems` grows as it goes; `lines` maps each path to its line (from 1)."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[ConfigProblem] = []
        self.lines: dict[str, int] = {}

    def problem(self, path: str, line: int, problem: str, mend: str = "") -> None:
        self.problems.append(ConfigProblem(self.file, line, path, problem, mend))

    def fault(self, node: yaml.Node, path: str, problem: str, mend: str = "") -> Any:
        """Note a problem at a node; returns BAD."""
        self.problem(path, node.start_mark.line + 1, problem, mend)
        return BAD

    def wrong_type(self, node: yaml.Node, path: str, wanted: str, mend: str = "") -> Any:
        return self.fault(node, path, f"wants {wanted}, but has {describe(node)}", mend or f"write {wanted}")

    def read(self, node: yaml.Node, kind: Any, path: str) -> Any:
        """The value of a node as the type asks, or BAD (and a problem noted)."""
        self.lines[path] = node.start_mark.line + 1
        meta: Meta | None = None
        if get_origin(kind) is Annotated:
            kind, meta = get_args(kind)[:2]
        if is_struct_type(kind):
            return self.read_struct(node, kind, path)
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self.read_union(node, get_args(kind), path)
        if origin is list:
            return self.read_list(node, get_args(kind)[0], path)
        if origin is dict:
            return self.read_dict(node, get_args(kind), path)
        if not isinstance(node, yaml.ScalarNode):
            return self.wrong_type(node, path, self.wanted(kind, meta))
        if is_null(node):
            return self.fault(node, path, "has no value", f"write {self.wanted(kind, meta)}, or leave the key out")
        return self.read_scalar(node, kind, meta, path)

    def read_union(self, node: yaml.Node, kinds: tuple[Any, ...], path: str) -> Any:
        """`X | None`, or a number or a word (`workers`)."""
        if is_null(node) and type(None) in kinds:
            return None
        kinds = tuple(kind for kind in kinds if kind is not type(None))
        for kind in kinds:
            if get_origin(kind) is Literal and isinstance(node, yaml.ScalarNode) and node.value in get_args(kind):
                return node.value
        if len(kinds) > 1 and not (isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "int"):
            return self.wrong_type(node, path, " or ".join(self.wanted(kind, None) for kind in reversed(kinds)))
        return self.read(node, kinds[0], path)

    def read_list(self, node: yaml.Node, kind: Any, path: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            short = isinstance(node, yaml.ScalarNode) and 0 < len(node.value) < 80
            return self.wrong_type(node, path, "a list", f"put it in brackets: [{node.value}]" if short else "")
        values = [self.read(child, kind, f"{path}[{index}]") for index, child in enumerate(node.value)]
        return [value for value in values if value is not BAD]

    def read_dict(self, node: yaml.Node, kinds: tuple[Any, Any], path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return self.wrong_type(node, path, "a section of keys")
        values = {}
        for key, key_node, child in self.keys(node, path):
            name = self.read(key_node, kinds[0], f"{path}.{key}")
            value = self.read(child, kinds[1], f"{path}.{key}")
            self.lines[f"{path}.{key}"] = key_node.start_mark.line + 1
            if name in values:
                self.fault(
                    key_node, f"{path}.{key}", f"is given twice, as {name} in another spelling", "keep one of them"
                )
            elif name is not BAD and value is not BAD:
                values[name] = value
        return values

    def keys(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """The keys of a section, each once; a key given twice is a problem."""
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.fault(key_node, path, "has a key that is not a word", "write keys as plain words")
                continue
            key = str(key_node.value)
            if key in seen:
                where = f"{path}.{key}" if path else key
                self.fault(key_node, where, f"is given twice (first in line {seen[key]})", "keep one of them")
                continue
            seen[key] = key_node.start_mark.line + 1
            yield key, key_node, child

    def read_struct(self, node: yaml.Node, kind: Any, path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            fields = ", ".join(field.encode_name for field in fields_of(kind)[:3])
            return self.wrong_type(node, path, "a section of keys", f"write keys below it, such as {fields}")
        fields_by_key = {field.encode_name: field for field in fields_of(kind)}
        values = {}
        present: set[str | None] = set()
        for key, key_node, child in self.keys(node, path):
            where = f"{path}.{key}" if path else key
            field = fields_by_key.get(key)
            if field is None:
                meant = self.nearest(key, list(fields_by_key))
                mend = f"did you mean `{meant}`?" if meant else f"the keys here are {', '.join(fields_by_key)}"
                self.fault(key_node, where, "is not a key we know", mend)
                present.add(meant)
                continue
            present.add(key)
            if is_null(child) and not field.required and self.has_parts(field.type):
                continue
            value = self.read(child, field.type, where)
            self.lines[where] = key_node.start_mark.line + 1
            if value is not BAD:
                values[field.name] = value
        for key, field in fields_by_key.items():
            if field.required and field.name not in values:
                if key not in present:
                    where = f"{path}.{key}" if path else key
                    self.fault(node, where, "is missing", MISSING[key])
                if key not in PLACEHOLDERS:
                    return BAD
                values[field.name] = PLACEHOLDERS[key]
        return kind(**values)

    @staticmethod
    def has_parts(kind: Any) -> bool:
        """True for a section, a list or a mapping."""
        return is_struct_type(kind) or get_origin(kind) in (list, dict)

    @staticmethod
    def nearest(key: str, known: list[str]) -> str | None:
        """The key that an unknown one was probably meant to be."""
        folded = key.lower().replace("-", "_")
        if folded in known:
            return folded
        if SYNONYMS.get(folded) in known:
            return SYNONYMS[folded]
        return next(iter(difflib.get_close_matches(folded, known, 1)), None)

    def wanted(self, kind: Any, meta: Meta | None) -> str:
        """The type in words."""
        if get_origin(kind) is Annotated:
            kind, meta = get_args(kind)[:2]
        unit = (meta.extra or {}).get("unit") if meta else None
        if unit in QUANTITIES:
            return QUANTITIES[unit][1]
        if unit:
            return "a text"
        if get_origin(kind) is Literal:
            return " or ".join(str(word) for word in get_args(kind))
        if get_origin(kind) in (list, dict):
            return "a list" if get_origin(kind) is list else "a section of keys"
        return {bool: "yes or no", int: "a whole number", float: "a number", str: "a text"}.get(kind, "a value")

    def read_scalar(self, node: yaml.ScalarNode, kind: Any, meta: Meta | None, path: str) -> Any:
        if get_origin(kind) is Literal:
            return self.read_word(node, get_args(kind), path)
        unit = (meta.extra or {}).get("unit") if meta else None
        if unit in QUANTITIES:
            return self.read_quantity(node, unit, meta, path)
        if kind is bool:
            return self.read_bool(node, path)
        if kind in (int, float):
            return self.read_number(node, kind, meta, path)
        if node.tag != _TAG + "str":
            return self.fault(
                node, path, f"wants a text, but has {describe(node)}", f'put it in quotes: "{node.value}"'
            )
        if unit is None:
            return node.value or self.fault(node, path, "is empty", "write a text, or leave the key out")
        try:
            return TEXTS[unit](node.value)
        except ValueError as error:
            return self.value_fault(node, path, error)

    def value_fault(self, node: yaml.Node, path: str, error: ValueError) -> Any:
        problem, _, mend = str(error).rpartition("; ")
        return self.fault(node, path, problem, mend)

    def read_word(self, node: yaml.ScalarNode, words: tuple[str, ...], path: str) -> Any:
        if node.value in words:
            return node.value
        close = difflib.get_close_matches(str(node.value).lower(), words, 1)
        mend = f"did you mean `{close[0]}`?" if close else f"write {' or '.join(words)}"
        return self.fault(node, path, f"wants {' or '.join(words)}, but has {describe(node)}", mend)

    def read_bool(self, node: yaml.ScalarNode, path: str) -> Any:
        if node.tag != _TAG + "bool":
            return self.wrong_type(node, path, "true or false")
        return str(node.value).lower() in ("true", "yes", "on")

    def read_quantity(self, node: yaml.ScalarNode, unit: str, meta: Meta | None, path: str) -> Any:
        parse, wanted = QUANTITIES[unit]
        if node.tag.removeprefix(_TAG) not in ("str", "int", "float"):
            return self.wrong_type(node, path, wanted)
        try:
            value = parse(node.value)
        except ValueError as error:
            return self.value_fault(node, path, error)
        return self.bounded(node, value, meta, path, wanted)

    def read_number(self, node: yaml.ScalarNode, kind: Any, meta: Meta | None, path: str) -> Any:
        wanted = self.wanted(kind, None)
        form = _INTEGER if kind is int else _NUMBER
        if node.tag not in (_TAG + "int", _TAG + "float") or not form.fullmatch(node.value):
            quoted = node.tag == _TAG + "str" and form.fullmatch(node.value)
            return self.wrong_type(node, path, wanted, "write it without quotes" if quoted else "")
        return self.bounded(node, kind(node.value.replace("_", "")), meta, path, wanted)

    def bounded(self, node: yaml.Node, value: float, meta: Meta | None, path: str, wanted: str) -> Any:
        """The value, if it lies within the type's bounds."""
        if meta is None:
            return value
        if not math.isfinite(value):
            return self.fault(node, path, "is too large", f"write {wanted}")
        if (meta.gt is not None and value <= meta.gt) or (meta.ge is not None and value < meta.ge):
            least = f"more than {meta.gt}" if meta.gt is not None else f"{meta.ge} or more"
            return self.fault(
                node, path, f"must be {least}, but is {getattr(node, 'value', value)!s}", f"write {wanted}"
            )
        if meta.le is not None and value > meta.le:
            return self.fault(
                node, path, f"must be {meta.le} or less, but is {getattr(node, 'value', value)!s}", f"write {wanted}"
            )
        return value
