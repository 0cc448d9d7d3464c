"""The example configuration loads, is what it says (the defaults), and mentions every key there is."""

import re
from pathlib import Path
from typing import Annotated, get_args, get_origin

import msgspec
import yaml
from msgspec.inspect import is_struct_type

from fastrelay.config import base, schema
from fastrelay.config.load import load_document
from fastrelay.config.sending import WarmupPlan
from fastrelay.config.tree import fields_of

EXAMPLE = Path(__file__).parents[3] / "deploy" / "fastrelay.example.yaml"

# What the example shows beside the defaults, so that there is something to see.
SHOWN = {
    *("hostname", "state_dir", "listeners", "sources", "pools", "dns", "routes"),
    *("providers", "shaping", "warmup", "tenants", "senders", "origins", "tls", "dkim", "events"),
    *("bounces", "suppression", "unsubscribe"),
}


def structs_within(kind):
    """The struct types inside a field's type."""
    if get_origin(kind) is Annotated:
        return structs_within(get_args(kind)[0])
    if is_struct_type(kind):
        return [kind]
    return [found for part in get_args(kind) for found in structs_within(part)]


def declared(kind, field):
    """A field with the struct that it was declared in first: several kinds of rules share their keys."""
    bases = [base for base in reversed(kind.__mro__) if is_struct_type(base)]
    return next(base.__name__ for base in bases if field in base.__struct_fields__)


def keys_of(kind):
    """Every (struct, key) of the schema."""
    for field in fields_of(kind):
        yield declared(kind, field.name), field.encode_name
        for below in structs_within(field.type):
            yield from keys_of(below)


def keys_shown(value, kind):
    """Every (struct, key) that a document has."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if is_struct_type(kind):
        for field in fields_of(kind):
            if field.encode_name in (value or ()):
                yield declared(kind, field.name), field.encode_name
                yield from keys_shown(value[field.encode_name], field.type)
    elif get_origin(kind) in (list, dict):
        for below in value.values() if isinstance(value, dict) else value or ():
            yield from keys_shown(below, get_args(kind)[-1])
    else:  # X | None
        for part in get_args(kind):
            yield from keys_shown(value, part) if structs_within(part) else ()


def test_every_key_is_in_the_example():
    shown = set(keys_shown(yaml.safe_load(EXAMPLE.read_text()), schema.Config))
    assert set(keys_of(schema.Config)) - shown == set()
    assert ("Growth", "factor") in shown
    assert ("Thresholds", "deferrals") in shown


def test_the_example_is_sound():
    assert load_document(EXAMPLE).warnings == []


def test_the_example_shows_the_defaults():
    config = load_document(EXAMPLE).config
    default = schema.Config(hostname=config.hostname)
    for field in msgspec.structs.fields(schema.Config):
        if field.name not in SHOWN:
            assert getattr(config, field.name) == getattr(default, field.name), field.name
    assert msgspec.structs.replace(config.dns, nameservers=[]) == default.dns
    listeners = [msgspec.structs.replace(one, tls=None, auth=None) for one in config.listeners.smtp]
    assert listeners == default.listeners.smtp
    assert msgspec.structs.replace(config.dkim, keys=[]) == default.dkim
    outbound = msgspec.structs.replace(config.tls.outbound, domains={})
    assert msgspec.structs.replace(config.tls, outbound=outbound) == default.tls
    assert msgspec.structs.replace(config.events, webhooks=[]) == default.events
    assert msgspec.structs.replace(config.bounces, address=None) == default.bounces
    forever = {f"{reason}_expire_seconds": None for reason in ("hard", "complaint", "unsubscribe")}
    assert msgspec.structs.replace(config.suppression, **forever) == default.suppression
    assert msgspec.structs.replace(config.unsubscribe, page=None, done_page=None) == default.unsubscribe
    plan = msgspec.structs.replace(config.warmup["gently"], template=None, per=None, providers={})
    assert plan == WarmupPlan()


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
        for field in fields_of(kind):
            plain = next((part for part in get_args(field.type) if get_origin(part) is Annotated), field.type)
            if get_origin(plain) is Annotated and get_origin(field.type) not in (list, dict):
                unit = (get_args(plain)[1].extra or {}).get("unit")
                assert field.name.endswith(units.get(unit, "")), field.name
                assert field.encode_name == base.yaml_key(field.name)
            for below in structs_within(field.type):
                walk(below)

    walk(schema.Config)
