"""The few kinds of panels that the dashboards are made of, in Grafana's classic JSON (schema version 39).

A panel is (kind, title, width, queries …) with a width in twenty-fourths of a row; `dashboard` lays rows out from the
top and numbers panels. Nothing here knows a metric.
"""

from __future__ import annotations

from typing import Any

Panel = dict[str, Any]

SCHEMA_VERSION = 39
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "#EAB839", "orange", "red", "blue", "#808080"


def target(expr: str, legend: str = "", *, instant: bool = False, ref: str = "A") -> dict[str, Any]:
    """One query. `instant`: its value now, as a table wants it."""
    query: dict[str, Any] = {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend or "__auto", "refId": ref}
    return {**query, "instant": True, "range": False, "format": "table"} if instant else {**query, "range": True}


def _targets(queries: list[tuple[str, str]], instant: bool = False) -> list[dict[str, Any]]:
    return [target(expr, legend, instant=instant, ref=chr(65 + at)) for at, (expr, legend) in enumerate(queries)]


def _panel(kind: str, title: str, width: int, height: int, words: str, targets: list[dict[str, Any]]) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": words,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": targets,
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {},
    }


def thresholds(steps: list[tuple[float | None, str]]) -> dict[str, Any]:
    """Colours from a value on; None: from below."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in steps]}


def stat(
    title: str,
    width: int,
    expr: str,
    unit: str,
    *,
    words: str = "",
    steps: list[tuple[float | None, str]] | None = None,
    legend: str = "",
    mappings: dict[str, str] | None = None,
    show: str = "value",
) -> Panel:
    """One number, and its course behind it. `show`: "name" for the legend in its place."""
    made = _panel("stat", title, width, 4, words, _targets([(expr, legend)]))
    made["fieldConfig"]["defaults"] = {
        "unit": unit,
        "thresholds": thresholds(steps or [(None, BLUE)]),
        "color": {"mode": "thresholds"},
        "mappings": [{"type": "value", "options": {at: {"text": text} for at, text in (mappings or {}).items()}}],
    }
    made["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area" if show == "value" else "none",
        "textMode": show,
    }
    return made


def graph(
    title: str,
    width: int,
    queries: list[tuple[str, str]],
    unit: str,
    *,
    words: str = "",
    stack: bool = False,
    dashed: str = "",
    height: int = 8,
    most: float | None = None,
) -> Panel:
    """Lines over time. `dashed`: a regular expression of the series that are bounds rather than measurements."""
    made = _panel("timeseries", title, width, height, words, _targets(queries))
    defaults: dict[str, Any] = {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 40 if stack else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        },
    }
    if most is not None:
        defaults["max"] = most
    made["fieldConfig"]["defaults"] = defaults
    if dashed:
        made["fieldConfig"]["overrides"] = [
            {
                "matcher": {"id": "byRegexp", "options": dashed},
                "properties": [
                    {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
                    {"id": "custom.fillOpacity", "value": 0},
                    {"id": "custom.lineWidth", "value": 2},
                ],
            }
        ]
    made["options"] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def bars(title: str, width: int, expr: str, legend: str, unit: str, *, words: str = "", height: int = 8) -> Panel:
    """Horizontal bars of values now, from 0 to 1: green, then orange towards the end."""
    made = _panel("bargauge", title, width, height, words, _targets([(expr, legend)]))
    made["fieldConfig"]["defaults"] = {
        "unit": unit,
        "min": 0,
        "max": 1,
        "thresholds": thresholds([(None, GREEN), (0.9, YELLOW), (1, ORANGE)]),
        "color": {"mode": "thresholds"},
    }
    made["options"] = {
        "orientation": "horizontal",
        "displayMode": "gradient",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return made


def table(title: str, width: int, columns: list[tuple[str, str, str]], *, words: str = "", height: int = 10) -> Panel:
    """Values now, joined by their labels. columns: (heading, expression, unit)."""
    made = _panel("table", title, width, height, words, _targets([(expr, "") for _, expr, _ in columns], instant=True))
    refs = [chr(65 + at) for at in range(len(columns))]
    headings = {f"Value #{ref}": heading for ref, (heading, _, _) in zip(refs, columns, strict=True)}
    hidden = dict.fromkeys(("Time", "__name__", "job", "instance"), True)
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": headings}},
    ]
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": heading}, "properties": [{"id": "unit", "value": unit}]}
        for heading, _, unit in columns
    ]
    made["options"] = {"showHeader": True, "cellHeight": "sm"}
    return made


def row(title: str) -> Panel:
    """A heading across the page."""
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": COLUMNS, "h": 1}, "panels": []}


def variable(name: str, label: str, query: str, *, all_values: bool) -> dict[str, Any]:
    """A choice among label values."""
    made: dict[str, Any] = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": all_values,
        "includeAll": all_values,
    }
    return {**made, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}} if all_values else made


def dashboard(uid: str, title: str, words: str, variables: list[dict[str, Any]], panels: list[Panel]) -> dict[str, Any]:
    """The whole page: panels are laid out left to right, top to bottom."""
    x = y = height = 0
    for number, panel in enumerate(panels, 1):
        place = panel["gridPos"]
        if x + place["w"] > COLUMNS:
            x, y, height = 0, y + height, 0
        place |= {"x": x, "y": y}
        x, height = x + place["w"], max(height, place["h"])
        panel["id"] = number
    datasource = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "description": words,
        "tags": ["fastrelay"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [datasource, *variables]},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "fastrelay",
                "tags": ["fastrelay"],
                "asDropdown": True,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "panels": panels,
    }
