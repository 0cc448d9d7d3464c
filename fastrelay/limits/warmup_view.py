"""Warm-up as it is shown: rows for workers and metrics, the tables of `fastrelay warmup status` and `plan`."""

from __future__ import annotations

from typing import Any

from fastrelay.limits import stages
from fastrelay.limits.days import date_text
from fastrelay.limits.warming import Track, Warmup

HELD = ("held", "stopped")


def rows(all_of_it: Warmup) -> list[dict[str, Any]]:
    """One for each source × key: what workers and metrics need."""
    return [row(all_of_it, track) for track in all_of_it.tracks.values()]


def row(all_of_it: Warmup, track: Track) -> dict[str, Any]:
    """`stage` from 1, at most `stages`. A source that is done has cold False and cap 0: there is none."""
    progress, ramp = track.progress, track.ramp
    cap = stages.cap_of(progress, ramp)
    return {
        "source": track.source,
        "key": track.key,
        "stage": min(progress.stage + 1, len(ramp.caps)),
        "stages": len(ramp.caps),
        "per": ramp.per,
        "cap": cap or 0,
        "used": all_of_it.used(track),
        "cold": cap is not None,
        "state": progress.state,
        "held": progress.state in HELD,
        "why": progress.why,
        "days_left": stages.days_left(progress, ramp),
        "overflow": track.plan.overflow,
    }


def status(all_of_it: Warmup, tracks: list[Track]) -> list[dict[str, Any]]:
    """Rows with what was delivered, and the shares against their thresholds."""
    return [{**row(all_of_it, track), **_detail(track)} for track in tracks]


def _detail(track: Track) -> dict[str, Any]:
    progress, plan = track.progress, track.plan
    found = stages.verdict(progress, plan) if progress.state != "done" else None
    cap = stages.cap_of(progress, track.ramp)
    return {
        "plan": track.plan_name,
        "schedule": track.ramp.origin,
        "time_zone": plan.time_zone,
        "day": date_text(progress.day.number),
        "by_operator": progress.operator,
        "delivered": progress.today.delivered,
        "delivered_counts": stages.delivered_of(progress, track.ramp),
        "needed": stages.needed(plan, cap) if cap else 0,
        "attempts_judged": progress.evidence.attempts,
        "minimum_messages": plan.minimum_messages,
        "sent_days": progress.sent_days,
        "shares": {name: _share(track, name) for name in stages.SHARES},
        "verdict": {"act": found[0], "why": found[1]} if found else None,
    }


def _share(track: Track, name: str) -> dict[str, Any]:
    plan = track.plan
    bounds = {act: getattr(getattr(plan, act), f"{name}_share") for act in ("hold", "step_back", "stop")}
    return {"share": track.progress.evidence.share(name), **bounds}


def plan(all_of_it: Warmup, tracks: list[Track]) -> list[dict[str, Any]]:
    """The stages to come with their dates, if each day counts and is well."""
    shown = []
    for track in tracks:
        ahead = stages.stages_ahead(track.progress, track.plan, track.ramp)
        last = ahead[-1][0] + 1 if ahead else None
        shown.append(
            {
                **row(all_of_it, track),
                "plan": track.plan_name,
                "schedule": track.ramp.origin,
                "time_zone": track.plan.time_zone,
                "count": track.plan.count,
                "ahead": [{"date": date_text(date), "stage": stage, "cap": cap} for date, stage, cap in ahead],
                "warm_on": date_text(last) if last is not None else None,
            }
        )
    return shown
