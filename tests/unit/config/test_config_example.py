"""The example configuration loads, is what it says (the defaults), and mentions every key there is."""

import re
from pathlib import Path
from typing import Annotated, get_args, get_origin

import msgspec
import yaml
from msgspec.inspect import is_struct_type

from fastrelay.config import base, schema
from fastrelay.config.load import load_document

EXAMPLE = Path(__file__).parents[3] / "deploy" / "fastrelay.example.yaml"

# What the example shows beside the defaults, so that there is something to see.
SHOWN = {"hostname", "state_dir", "listeners", "sources", "pools", "dns", "routes"}


def structs_within(kind):
    """The struct types inside a field's type."""
    if get_origin(kind) is Annotated:
        return structs_within(get_args(kind)[0])
    if is_struct_type(kind):
        return [kind]
    return [found for part in get_args(kind) for found in structs_within(part)]


def keys_of(kind, path=""):
    """Every path of the schema, lists without an index."""
    for field in msgspec.structs.fields(kind):
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        yield here
        for below in structs_within(field.type):
            yield from keys_of(below, here)


def paths_of(value, path=""):
    """Every path that a YAML document has, lists without an index."""
    if isinstance(value, dict):
        for key, below in value.items():
            here = f"{path}.{key}" if path else key
            yield here
            yield from paths_of(below, here)
    elif isinstance(value, list):
        for below in value:
            yield from paths_of(below, path)


def test_every_key_is_in_the_example():
    shown = set(paths_of(yaml.safe_load(EXAMPLE.read_text())))
    assert set(keys_of(schema.Config)) - shown == set()


def test_the_example_is_sound():
    assert load_document(EXAMPLE).warnings == []


def test_the_example_shows_the_defaults():
    config = load_document(EXAMPLE).config
    default = schema.Config(hostname=config.hostname)
    for field in msgspec.structs.fields(schema.Config):
        if field.name not in SHOWN:
            assert getattr(config, field.name) == getattr(default, field.name), field.name
    assert msgspec.structs.replace(config.dns, nameservers=[]) == default.dns
    assert config.listeners.smtp == default.listeners.smtp


def test_every_key_of_the_example_is_explained():
    """A key has a comment on its line, above it, or above the group or section that it stands in."""
    explained = False
    for line in EXAMPLE.read_text().splitlines():
        if not line.strip():
            explained = False
        elif line.lstrip().startswith("#"):
            explained = True
        elif re.match(r"\s*(- )?\w+:", line):
            assert explained or "#" in line, line


def test_every_attribute_with_a_unit_says_so():
    units = {"duration": "_seconds", "size": "_bytes", "share": "_share"}

    def walk(kind):
        for field in msgspec.structs.fields(kind):
            if get_origin(field.type) is Annotated:
                unit = (get_args(field.type)[1].extra or {}).get("unit")
                assert field.name.endswith(units.get(unit, "")), field.name
                assert field.encode_name == base.yaml_key(field.name)
            for below in structs_within(field.type):
                walk(below)

    walk(schema.Config)
