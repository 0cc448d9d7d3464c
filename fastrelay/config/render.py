"""A configuration written out as YAML, every key with its value and unit: what `fastrelay check --print` shows.

The output loads again to the same configuration (a test holds it to that).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
import yaml
from msgspec.inspect import is_struct

from fastrelay.config.schema import Config
from fastrelay.config.tree import fields_of
from fastrelay.config.units import format_duration, format_share, format_size

_FORMATS: dict[str, Callable[[Any], str]] = {
    "duration": format_duration,
    "size": format_size,
    "share": format_share,
}


def render(config: Config) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(_plain(config, None), sort_keys=False, allow_unicode=True, width=110)


def _plain(value: Any, kind: Any) -> Any:
    """A value as YAML would have it; `kind` is the field's type, which knows the unit."""
    if is_struct(value):
        parts = [(field, _plain(getattr(value, field.name), field.type)) for field in fields_of(type(value))]
        # None stands for a key that was left out, and a route must not even mention its other half; but where something
        # else is the default, None was meant.
        return {
            field.encode_name: part
            for field, part in parts
            if part is not None or field.default not in (None, msgspec.NODEFAULT)
        }
    if isinstance(value, list):
        return [_plain(part, None) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part, None) for key, part in value.items()}
    if get_origin(kind) in (Union, types.UnionType) and value is not None:
        return _plain(value, next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is Annotated:
        unit = (get_args(kind)[1].extra or {}).get("unit")
        if unit in _FORMATS:
            return _FORMATS[unit](value)
    return value
