"""From a YAML node tree to the structs of schema.py, with every problem's line.

The tree is walked by the structs' own types, so that a wrong value is known by its path and line, and one wrong value
does not hide the next. What is wrong is left at its default; the caller throws the result away unless `problems` is empty,
but can still run the rules that compare keys (rules.py) on what was good.

Scalars are resolved more strictly than YAML 1.1 would: no octal numbers, no sexagesimal ones, and a text that YAML would take
for something else is refused with the advice to quote it.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import idna
import msgspec
import yaml
from msgspec import Meta
from msgspec.inspect import is_struct_type

from fastrelay.config.units import (
    format_endpoint,
    parse_bind,
    parse_duration,
    parse_endpoint,
    parse_share,
    parse_size,
)
from fastrelay.errors import ConfigProblem

BAD: Any = object()

_TAG = "tag:yaml.org,2002:"
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9_]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9_]*)(?:\.[0-9]+)?")

# Keys that people write for ours; difflib finds misspellings, not synonyms.
SYNONYMS = {
    "interval": "first",
    "initial": "first",
    "max_age": "expire",
    "lifetime": "expire",
    "threads": "workers",
    "processes": "workers",
    "ip": "address",
    "helo": "ehlo",
    "id": "name",
    "host": "hosts",
    "domain": "domains",
    "smarthost": "hosts",
    "relayhost": "routes",
    "mynetworks": "relay_networks",
    "myhostname": "hostname",
    "servers": "nameservers",
    "resolvers": "nameservers",
    "listen": "bind",
    "data_dir": "state_dir",
    "spool_dir": "state_dir",
    "queue_directory": "state_dir",
}


def normalize_hostname(text: str) -> str:
    """A host or domain name in lower-case A-labels, without a final dot. Raises ValueError, "problem; mend"."""
    name = text.rstrip(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{text!r} is not a domain name ({error}); write it as in DNS") from None
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{text!r} is not a domain name; write it as in DNS, such as mta1.news.example")
    return name


def _hostname(text: str) -> str:
    name = normalize_hostname(text)
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{text!r} is an address, not a name; write the name that its reverse DNS gives")
    if "_" in name:
        raise ValueError(f"{text!r} has an underscore, which host names may not have; use a hyphen")
    return name


def _bind(text: str) -> str:
    return format_endpoint(*parse_bind(text))


def _endpoint(text: str) -> str:
    """`host`, `host:port`, `address`, `address:port` or `[IPv6 address]:port`, normalized; a bare host keeps no port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        pass
    if ":" not in text:
        return _host_or_address(text)
    host, port = parse_endpoint(text)
    if port == 0:
        raise ValueError(f"{text!r} has port 0; write the port of the host, such as {host}:25")
    return format_endpoint(_host_or_address(host), port)


def _host_or_address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    name = normalize_hostname(host)
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f"{host!r} is not an IPv4 address; write four numbers from 0 to 255, or a host name")
    return name


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if "/" in text:
        raise ValueError(f"{text!r} is a network; write one address")
    raise ValueError(
        f"{text!r} is not an IP address; write one such as 192.0.2.11 or 2001:db8::11, without port or brackets"
    )


def _nameserver(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return format_endpoint(str(address), 53)
    host, port = parse_endpoint(text) if ":" in text else (text, 53)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{host!r} is not an IP address; write nameservers as addresses, such as 127.0.0.1:53"
        ) from None
    if port == 0:
        raise ValueError(f"{text!r} has port 0; leave the port away for 53")
    return format_endpoint(str(address), port)


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            fixed = ipaddress.ip_network(text, strict=False)
            host = text.partition("/")[0]
            raise ValueError(
                f"{text!r} has bits set beyond its prefix; write {fixed} for the network or {host} for the host"
            ) from None
    raise ValueError(f"{text!r} is not a network; write it as address/prefix, such as 10.0.0.0/8 or ::1/128")


def _domain_pattern(text: str) -> str:
    if text == "*":
        return text
    if text.startswith("@"):
        raise ValueError(f"{text!r} starts with @; write the domain alone, {text[1:]}")
    if text.startswith("."):
        raise ValueError(f"{text!r} starts with a dot; write *{text} for all subdomains")
    prefix, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if rest.startswith("[") and rest.endswith("]") and not prefix:
        return rest.lower()
    if "*" in rest:
        raise ValueError(f"{text!r} has a * inside; only * and *.domain are patterns")
    return prefix + normalize_hostname(rest)


def _header_name(text: str) -> str:
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a header field name; write it without the colon, such as X-Job")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a name; use up to 64 letters, digits, dots, hyphens and underscores")
    return text


TEXTS: dict[str, Callable[[str], str]] = {
    "hostname": _hostname,
    "bind": _bind,
    "endpoint": _endpoint,
    "address": _address,
    "nameserver": _nameserver,
    "network": _network,
    "domain_pattern": _domain_pattern,
    "header_name": _header_name,
    "name": _name,
}
QUANTITIES: dict[str, tuple[Callable[[str], float], str]] = {
    "duration": (parse_duration, "a duration such as 30s or 4h"),
    "size": (parse_size, "a size such as 64KiB or 100MiB"),
    "share": (parse_share, "a percentage such as 10%"),
}


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
        if node.tag == _TAG + "null":
            return self.fault(node, path, "has no value", f"write {self.wanted(kind, meta)}, or leave the key out")
        return self.read_scalar(node, kind, meta, path)

    def read_union(self, node: yaml.Node, kinds: tuple[Any, ...], path: str) -> Any:
        """`X | None`, or a number or a word (`workers`)."""
        is_null = isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"
        if is_null and type(None) in kinds:
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
            if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
                return BAD if self.empty_key_is_fine(path) else []
            shown = str(node.value) if isinstance(node, yaml.ScalarNode) else "…"
            return self.wrong_type(node, path, "a list", f"put it in brackets: [{shown}]" if len(shown) < 80 else "")
        values = [self.read(child, kind, f"{path}[{index}]") for index, child in enumerate(node.value)]
        return [value for value in values if value is not BAD]

    @staticmethod
    def empty_key_is_fine(path: str) -> bool:
        """A key without a value (all of it commented out) keeps its default."""
        return bool(path)

    def read_dict(self, node: yaml.Node, kinds: tuple[Any, Any], path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null":
                return BAD
            return self.wrong_type(node, path, "a section of keys")
        values = {}
        for key, key_node, child in self.keys(node, path):
            name = self.read(key_node, kinds[0], f"{path}.{key}")
            value = self.read(child, kinds[1], f"{path}.{key}")
            if name is not BAD and value is not BAD:
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
            if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null" and not path.endswith("]"):
                return BAD  # an empty section: all defaults
            fields = ", ".join(field.encode_name for field in msgspec.structs.fields(kind)[:3])
            return self.wrong_type(node, path, "a section of keys", f"write keys below it, such as {fields}")
        fields_by_key = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        values = {}
        present = set()
        for key, key_node, child in self.keys(node, path):
            where = f"{path}.{key}" if path else key
            field = fields_by_key.get(key)
            if field is None:
                self.fault(key_node, where, "is not a key we know", self.advice(key, list(fields_by_key)))
                continue
            present.add(key)
            value = self.read(child, field.type, where)
            self.lines[where] = key_node.start_mark.line + 1
            if value is not BAD:
                values[field.name] = value
        for key, field in fields_by_key.items():
            if field.required and field.name not in values:
                if key not in present:
                    where = f"{path}.{key}" if path else key
                    self.fault(
                        node, where, "is missing", MISSING.get(key, f"add {key}: with {self.wanted_of(field.type)}")
                    )
                return_bad = path != ""
                if return_bad:
                    return BAD
                values[field.name] = "hostname.invalid"
        return kind(**values)

    @staticmethod
    def advice(key: str, known: list[str]) -> str:
        """The mend for an unknown key."""
        folded = key.lower().replace("-", "_")
        synonym = SYNONYMS.get(folded)
        close = (
            [folded]
            if folded in known
            else [synonym]
            if synonym in known
            else difflib.get_close_matches(folded, known, 1)
        )
        if close:
            return f"did you mean `{close[0]}`?"
        return f"the keys here are {', '.join(known)}"

    def wanted_of(self, kind: Any) -> str:
        if get_origin(kind) is Annotated:
            return self.wanted(*get_args(kind)[:2])
        return self.wanted(kind, None)

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


# Mends for keys that must be given.
MISSING = {
    "hostname": "add hostname: with this host's full name, as its reverse DNS gives it, such as mta1.news.example",
    "bind": 'add bind: with an address and a port, such as "127.0.0.1:2525"',
    "domains": 'add domains: with a list, such as ["example.com", "*.example.com"] or ["*"]',
    "name": "add name: with a short name of your choice; pools and commands use it",
    "address": "add address: with an IP address of this host",
}
