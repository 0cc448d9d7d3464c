"""A worker's side of back-off: which rule a refusal fires, and what is done here and now.

The supervisor decides (backoff.py) and hears of every rule that fired; for each rule, source and place a few times in
REPORT_SECONDS at most, then with what came together. That takes a moment, in which a quick worker would run into some
thousand more refusals, so the worker at once slows the source down through the shared table, and keeps it from the
place where the rule says so; what the supervisor then tells takes the place of that.

Known faults: a site of no known provider has an adaptive rule only after the supervisor has said so, a second later.
A state that the supervisor sent just before it heard of a suspension lifts that for as long as the next one takes.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrelay.limits.backoff import REPLY_CHARACTERS, adaptive_cell, cell_rule
from fastrelay.limits.matching import RuleSet, rules_of
from fastrelay.limits.rate import parse_rate
from fastrelay.limits.rules_file import Rule
from fastrelay.limits.shape import place_of
from fastrelay.metrics import names

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.feedback.classes import Classified

REPORT_SECONDS = 1.0
FIRST_PAUSE_PER_HOUR = 180.0  # until the supervisor has said how to go on: a message in 20 s
REPORTS_AT_ONCE = 3  # in REPORT_SECONDS, for each rule, source and place
OWN = "worker"  # begins the id of an order that the supervisor has not confirmed
MAX_UNREPORTED = 10_000  # rule × source × place; beyond that reports go at once


@dataclass(slots=True)
class _Told:
    """Since when a rule was reported how often, and what came since."""

    at: float
    times: int = 0
    waiting: dict[str, Any] | None = None


class Reactions:
    """See the top. One a worker."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._config: Any = None
        self._rules = RuleSet()
        self._told: dict[tuple[str, str, str], _Told] = {}
        self._flush_timer: asyncio.TimerHandle | None = None

    def rule_for(self, site: Any, code: int, enhanced: str, text: bytes, said: Classified | None = None) -> Rule | None:
        """The rule that a reply of a site fires, if any: one that has its words, else one for what the reply `said`."""
        if self._app.config is not self._config:  # the first time, and after a reload
            self._config = self._app.config
            self._rules = rules_of(self._config)
        found = self._rules.find(site.provider, code, enhanced, text)
        return found if found is not None or said is None else self._rules.for_class(code, enhanced, said)

    def refused(self, source: str, site: Any, code: int, enhanced: str, text: bytes) -> Rule | None:
        """A connection was refused, by its greeting or later: the rule that this fired is acted on."""
        rule = self.rule_for(site, code, enhanced, text)
        if rule is not None:
            self.fired(rule, source, site, code, enhanced, text, 1)
        return rule

    def fired(self, rule: Rule, source: str, site: Any, code: int, enhanced: str, text: bytes, recipients: int) -> None:
        """A rule fired for so many recipients of a transaction."""
        app = self._app
        provider, place = site.provider, place_of(site.provider, site.key)
        app.meters.count(names.RULE_FIRED, recipients, rule=rule.name, provider=provider)
        if rule.actions.treat_as == "block":
            app.meters.count(names.BLOCKS, recipients, provider=provider, source=source)
        elif rule.actions.treat_as == "greylisting":
            app.meters.count(names.GREYLISTED, recipients, provider=provider, source=source)
        shown = text.decode("utf-8", "backslashreplace").replace("\n", " ")[:REPLY_CHARACTERS]
        self._act(rule, source, place, f"{code} {shown}")
        self._report(
            {
                "event": "reply_rule", "rule": rule.name, "source": source, "place": place, "provider": provider,
                "code": code, "enhanced": enhanced, "text": shown, "attempts": recipients,
            }
        )  # fmt: skip

    def _act(self, rule: Rule, source: str, place: str, reply: str) -> None:
        """What can't wait for the supervisor."""
        actions = rule.actions
        if actions.slows:
            per_hour = FIRST_PAUSE_PER_HOUR if actions.slow_to is None else parse_rate(actions.slow_to).per_hour
            self._slow(source, place, per_hour)
        lasts = actions.for_seconds or self._config.backoff.recover_seconds
        if actions.suspend_seconds is not None or actions.switch_source:
            self._hold(rule, source, place, reply, actions.suspend_seconds or lasts, None)
        elif actions.connections is not None:
            self._hold(rule, source, place, reply, lasts, actions.connections)

    def _slow(self, source: str, place: str, per_hour: float) -> None:
        """At most so fast in all workers, unless it is slower already."""
        table = self._app.table
        cell = table.cell(adaptive_cell(source, place))
        emission_ns, burst = cell_rule(per_hour)
        if table.rate_of(cell)[0] < emission_ns:
            table.set_rate(cell, emission_ns, burst)
            table.take_recorded(cell, self._app.clock.boottime_ns(), 1)  # the first comes after the pause

    def _hold(self, rule: Rule, source: str, place: str, reply: str, seconds: float, connections: int | None) -> None:
        """A suspension or cut in this worker."""
        board = self._app.board
        until = self._app.clock.wall() + seconds
        there = board.backoffs.get((source, place))
        if (
            there is not None
            and there.until_wall >= until - REPORT_SECONDS
            and stricter(there.connections, connections)
        ):
            return
        described = [dataclasses.asdict(one) for one in board.backoffs.values()]
        new = {
            "id": f"{OWN}:{source}:{place}", "source": source, "place": place, "until_wall": until, "rule": rule.name,
            "why": reply, "connections": connections,
        }  # fmt: skip
        board.set_backoffs([*described, new])
        board.call_later(seconds, lambda: self._lift(source, place, until))

    def _lift(self, source: str, place: str, until_wall: float) -> None:
        """An order of ours ends with its time. One that the supervisor has confirmed is ended by the supervisor."""
        board = self._app.board
        there = board.backoffs.get((source, place))
        if there is not None and there.id.startswith(OWN) and there.until_wall == until_wall:
            kept = [dataclasses.asdict(one) for key, one in board.backoffs.items() if key != (source, place)]
            board.set_backoffs(kept)

    # -- reports ------------------------------------------------------------------------------------------------------

    def _report(self, event: dict[str, Any]) -> None:
        """To the supervisor: at once, or with what comes in the next second."""
        key = (event["rule"], event["source"], event["place"])
        now = self._app.clock.monotonic()
        told = self._told.get(key)
        if told is None:
            if len(self._told) >= MAX_UNREPORTED:
                self.flush()
                self._told.clear()
            told = self._told[key] = _Told(now)
        if told.waiting is not None:
            event["attempts"] += told.waiting["attempts"]
            told.waiting = None
        if now - told.at >= REPORT_SECONDS:
            told.at, told.times = now, 0
        if told.times < REPORTS_AT_ONCE:
            told.times += 1
            self._app.report(event)
            return
        told.waiting = event
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self.flush)

    def flush(self) -> None:
        """Reports what waits."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        for told in self._told.values():
            if told.waiting is not None:
                self._app.report(told.waiting)
                told.waiting = None


def stricter(one: int | None, other: int | None) -> bool:
    """Whether a cut to `one` connections (None: to none at all) is as strict as the other."""
    return one is None or (other is not None and one <= other)


def retry_seconds(delay: float, rule: Rule | None) -> float:
    """How long a recipient waits that a rule was fired for: its own delay, or longer where the rule wants that."""
    wanted = None if rule is None else rule.actions.retry_after_seconds
    return delay if wanted is None else max(delay, wanted)
