"""Answers of all workers to one control command, made into one.

A worker answers for its own spool. How answers are joined depends on the command: counts are added, lists are joined,
and of a message only one worker knows. Pure functions over decoded JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = dict[str, Any]
Merge = Callable[[Sequence[Result], Mapping[str, Any]], Result]

DEFAULT_LIMIT = 100


def add_up(results: Sequence[Result], arguments: Mapping[str, Any]) -> Result:
    """Numbers are added, objects are merged key by key, `oldest_seconds` is the largest."""
    total: Result = {}
    for result in results:
        _add(total, result)
    return total


def _add(total: Result, part: Mapping[str, Any]) -> None:
    for key, value in part.items():
        before = total.get(key)
        if isinstance(value, Mapping):
            merged = before if isinstance(before, dict) else {}
            _add(merged, value)
            total[key] = merged
        elif before is None or value is None:
            total[key] = value if before is None else before
        elif isinstance(value, bool):
            total[key] = before and value
        elif not isinstance(value, int | float):
            total[key] = value
        elif key == "oldest_seconds":
            total[key] = max(before, value)
        else:
            total[key] = before + value


def messages(results: Sequence[Result], arguments: Mapping[str, Any]) -> Result:
    """Lists of messages: joined, oldest first, cut to `limit`; `matched` is added up."""
    rows = [row for result in results for row in result.get("messages", [])]
    rows.sort(key=lambda row: -float(row.get("age_seconds") or 0))
    limit = arguments.get("limit", DEFAULT_LIMIT)
    matched = sum(int(result.get("matched", len(result.get("messages", [])))) for result in results)
    return {"messages": rows[:limit], "matched": matched}


def everything(results: Sequence[Result], arguments: Mapping[str, Any]) -> Result:
    """Lists of messages, joined without a limit, oldest first."""
    rows = [row for result in results for row in result.get("messages", [])]
    rows.sort(key=lambda row: -float(row.get("age_seconds") or 0))
    return {"messages": rows}


def audits(results: Sequence[Result], arguments: Mapping[str, Any]) -> Result:
    """All workers' accounts, by slot; ok only if every one is."""
    workers = [row for result in results for row in result.get("workers", [])]
    workers.sort(key=lambda row: int(row.get("slot", 0)))
    return {"ok": bool(results) and all(bool(result.get("ok")) for result in results), "workers": workers}


def first(results: Sequence[Result], arguments: Mapping[str, Any]) -> Result:
    """The only answer there is (the workers that do not have the message answer with an error)."""
    return results[0]
