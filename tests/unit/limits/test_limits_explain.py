"""What `explain` tells of a worker: route, provider, limits with their use, and which sources could send."""

import asyncio
import json

import msgspec
import pytest
from support.worker import WorkerBox, run

from fastrelay.admin.control import CommandError, Commands
from fastrelay.config.base import Origins
from fastrelay.limits.explain import ExplainError, explain, merged, with_governor
from fastrelay.route.resolver import Answer

SECOND_NS = 10**9
GOOGLE = "aspmx.l.google.com"
SOURCES = [
    {"name": "a", "address": "127.0.0.11", "public_address": "192.0.2.11"},
    {"name": "b", "address": "127.0.0.12"},
]
POOLS = {"default": ["a", "b"], "vip": ["a"]}


class Dns:
    """example.com is at Google, other.example has a host of its own, v6.example only an IPv6 one."""

    def __init__(self):
        self.records = {
            ("example.com", "MX"): ((1, GOOGLE), (5, "alt.google.com")),
            ("other.example", "MX"): ((10, "mx.other.example"),),
            ("v6.example", "MX"): ((10, "mx.v6.example"),),
            (GOOGLE, "A"): ("9.9.9.1", "9.9.9.2"),
            ("mx.other.example", "A"): ("9.9.9.3",),
            ("mx.v6.example", "AAAA"): ("2a00::1",),
        }

    async def query(self, name, rdtype):
        found = self.records.get((name, rdtype))
        known = any(owner == name for owner, _ in self.records)
        return Answer("ok", found, 600) if found else Answer("nodata" if known else "nxdomain", ttl=60)


def box_of(folder, **keys):
    """A worker with these keys in its configuration (JSON form) and our DNS."""
    box = WorkerBox(folder, [], sources=SOURCES, pools=POOLS, **keys)
    box.clock.advance(86400.0)  # a table that was made just now gives no bursts
    resolver = Dns()
    box.app.router.resolver = resolver
    box.app.router.book.resolver = resolver
    return box


def ask(folder, *questions, prepare=lambda box: None, **keys):
    """The answers of a worker, which must be JSON."""
    answers = []

    async def work():
        async with box_of(folder / "w", **keys) as box:
            prepare(box)
            for question in questions:
                answer = await explain(box.app, **question)
                answers.append(json.loads(msgspec.json.encode(answer)))

    run(work)
    return answers if len(answers) > 1 else answers[0]


def limits_of(source):
    return {(limit["kind"], limit["scope"]): limit for limit in source["limits"]}


def test_a_known_provider(tmp_path):
    answer = ask(tmp_path, {"domain": "example.com"})
    assert answer["domain"] == "example.com"
    assert answer["provider"] == {
        "name": "google",
        "suffix": "google.com",
        "origin": "built-in",
        "hosts": [GOOGLE],
    }
    hosts = [(host["group"], host["host"], host["addresses"]) for host in answer["route"]["hosts"]]
    assert hosts == [(0, GOOGLE, ["9.9.9.1", "9.9.9.2"]), (1, "alt.google.com", [])]
    assert [source["name"] for source in answer["sources"]] == ["a", "b"]
    first = answer["sources"][0]
    assert (first["address"], first["public_address"]) == ("127.0.0.11", "192.0.2.11")
    assert first["can_send"]
    assert first["obstacles"] == []
    limit = limits_of(first)["rate", "source:a provider:google"]
    assert (limit["value"], limit["origin"], limit["left"], limit["wait_seconds"]) == (
        "100/s",
        "built-in: any provider",
        50,
        0.0,
    )
    connections = limits_of(first)["connections", "source:a provider:google"]
    assert (connections["value"], connections["used"]) == ("5", 0)
    numbers = {number["kind"]: (number["value"], number["origin"]) for number in first["numbers"]}
    assert numbers["messages_per_connection"] == (50, "built-in: google")
    assert answer["waiting"] == {"domain": 0, "queues": []}


def test_tls(tmp_path):
    bank = {"outbound": {"domains": {"other.example": "verify"}}}
    google, other = ask(tmp_path, {"domain": "example.com"}, {"domain": "other.example"}, tls=bank)
    plain = {"level": "opportunistic", "kind": "opportunistic", "words": "TLS where it is offered", "may_wait": False}
    assert google["tls"] == plain
    assert (other["tls"]["kind"], other["tls"]["may_wait"]) == ("verify", True)


def test_one_source_and_one_pool(tmp_path):
    one, pool = ask(tmp_path, {"domain": "example.com", "source": "b"}, {"domain": "example.com", "pool": "vip"})
    assert [source["name"] for source in one["sources"]] == ["b"]
    assert [source["name"] for source in pool["sources"]] == ["a"]
    assert pool["pool"] == "vip"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"pool": "new"}, "default, vip"),
        ({"source": "c"}, "a, b"),
        ({"source": "b", "pool": "vip"}, "not in pool 'vip'"),
    ],
)
def test_names_that_are_not_there(tmp_path, question, words):
    with pytest.raises(ExplainError, match=words):
        ask(tmp_path, {"domain": "example.com", **question})


@pytest.mark.parametrize(
    ("domain", "action", "reply"),
    [("gone.example", "fail", "550 5.1.2"), ("not a domain", "fail", "550 5.1.2"), ("drop.example", "discard", None)],
)
def test_mail_that_goes_nowhere(tmp_path, domain, action, reply):
    answer = ask(tmp_path, {"domain": domain}, routes=[{"domains": ["drop.example"], "action": "discard"}])
    assert answer["route"]["action"] == action
    assert answer["route"].get("reply") == reply
    assert answer["sources"] == []
    assert "provider" not in answer
    rule = answer["route"].get("rule")
    assert (rule["path"] if rule else None) == ("routes[0]" if action == "discard" else None)


def test_a_smart_host_has_no_built_in_limits(tmp_path):
    answer = ask(tmp_path, {"domain": "example.com"}, routes=[{"domains": ["*"], "hosts": [GOOGLE]}])
    assert answer["provider"]["name"] == "google"
    assert answer["route"]["rule"] == {"path": "routes[0]", "origin": "default: routes[0]"}
    assert not [limit for limit in answer["sources"][0]["limits"] if limit["kind"] == "rate"]


def test_providers_of_the_configuration_are_named_with_their_line(tmp_path):
    origins = msgspec.to_builtins(Origins(file="/etc/relay.yaml", lines={"providers.house": 7}))
    providers = {"house": {"suffixes": ["other.example"], "rate": "5/s"}}
    answer = ask(tmp_path, {"domain": "other.example"}, providers=providers, origins=origins)
    assert answer["file"] == "/etc/relay.yaml"
    assert answer["provider"]["origin"] == "relay.yaml line 7, providers.house"
    limit = limits_of(answer["sources"][0])["rate", "source:a provider:house"]
    assert limit["origin"] == "relay.yaml line 7, providers.house"


# -- use, and who could send -------------------------------------------------------------------------------------------


def test_what_is_used(tmp_path):
    shaping = [{"source": "*", "provider": "google", "rate": "60/min burst 3", "connections": 2}]

    def prepare(box):
        table, now_ns = box.app.table, box.clock.boottime_ns()
        rate = table.cell(b"rate:source:a provider:google")
        assert table.take_up_to(rate, now_ns, 3, SECOND_NS, 3) == 3
        places = table.cell(b"connections:source:b provider:google")
        assert table.acquire(places, 0, 2)

    answer = ask(tmp_path, {"domain": "example.com"}, {"domain": "example.com"}, prepare=prepare, shaping=shaping)[1]
    a, b = answer["sources"]
    limit = limits_of(a)["rate", "source:a provider:google"]
    assert limit["left"] == 0
    assert 0 < limit["wait_seconds"] <= 1
    assert not a["can_send"]
    assert a["obstacles"] == [
        {
            "reason": "rate_limit",
            "detail": "source a at google: 60/min burst 3",
            "until_seconds": limit["wait_seconds"],
        }
    ]
    assert limits_of(b)["connections", "source:b provider:google"]["used"] == 1
    assert b["can_send"]


def test_looking_takes_nothing(tmp_path):
    shaping = [{"rate": "1/h"}]
    first, second = ask(tmp_path, {"domain": "example.com"}, {"domain": "example.com"}, shaping=shaping)
    assert first == second
    assert first["sources"][0]["can_send"]


def test_a_site_without_mail_takes_no_cells(tmp_path):
    """Cells are never given back: who asks about many domains must not use up the table."""
    cells = []

    async def work():
        async with box_of(tmp_path / "w") as box:
            for domain in ("example.com", "v6.example", "other.example"):
                answer = await explain(box.app, domain)
                assert answer["sources"][0]["limits"]
                cells.append(box.app.table.cells)

    run(work)
    assert cells[0] == cells[1] == cells[2]


def test_rules_by_campaign_and_tenant(tmp_path):
    shaping = [{"rate": "9/s"}, {"campaign": "*", "tenant": "t", "rate": "5/s"}]
    answer = ask(tmp_path, {"domain": "example.com"}, shaping=shaping)
    assert answer["flows"] == [{"campaign": "*", "tenant": "t", "value": "5/s", "origin": "default: shaping[1]"}]


def test_all_connections_in_use(tmp_path):
    def prepare(box):
        cell = box.app.table.cell(b"connections:pool:vip")
        assert box.app.table.acquire(cell, 0, 1)

    answer = ask(
        tmp_path,
        {"domain": "example.com", "pool": "vip"},
        prepare=prepare,
        shaping=[{"pool": "vip", "connections": 1}],
    )
    (obstacle,) = answer["sources"][0]["obstacles"]
    assert obstacle["reason"] == "connection_limit"
    assert obstacle["until_seconds"] is None
    assert obstacle["detail"] == "pool vip: all 1 connections are open"


def test_open_connections_go_on_where_there_may_be_no_more(tmp_path):
    def prepare(box):
        for scope in (b"connections:pool:vip", b"connections:source:a provider:google"):
            assert box.app.table.acquire(box.app.table.cell(scope), 0, 1)

    shaping = [{"pool": "vip", "connections": 1}]
    answer = ask(tmp_path, {"domain": "example.com", "pool": "vip"}, prepare=prepare, shaping=shaping)
    assert answer["sources"][0]["connections"] == 1
    assert answer["sources"][0]["can_send"]


def test_an_operator_holds_a_source(tmp_path):
    def prepare(box):
        box.app.board.set_suspensions(
            [{"id": "s1", "selectors": {"source": "a", "provider": "google"}, "why": "blocked", "since": "now"}]
        )

    at_google, elsewhere = ask(tmp_path, {"domain": "example.com"}, {"domain": "other.example"}, prepare=prepare)
    held, free = at_google["sources"]
    assert [one["reason"] for one in held["obstacles"]] == ["suspended"]
    assert "s1" in held["obstacles"][0]["detail"]
    assert "blocked" in held["obstacles"][0]["detail"]
    assert free["can_send"]
    assert elsewhere["sources"][0]["can_send"]


def test_a_rule_about_replies_holds_a_source(tmp_path):
    def prepare(box):
        until = box.clock.wall() + 600
        orders = [
            {"id": "1", "source": "a", "place": "google", "until_wall": until, "rule": "tss04", "why": "421 go away"},
            {
                "id": "2",
                "source": "b",
                "place": "google",
                "until_wall": until,
                "rule": "r",
                "why": "x",
                "connections": 1,
            },
        ]
        box.app.set_limits({"backoffs": orders, "warmup": [], "adaptive": []})

    at_google, elsewhere = ask(tmp_path, {"domain": "example.com"}, {"domain": "other.example"}, prepare=prepare)
    held, cut = at_google["sources"]
    (obstacle,) = held["obstacles"]
    assert (obstacle["reason"], round(obstacle["until_seconds"])) == ("provider_backoff", 600)
    assert "tss04" in obstacle["detail"]
    assert "421 go away" in obstacle["detail"]
    assert cut["can_send"]
    assert cut["most_connections"] == 1
    assert elsewhere["sources"][0]["can_send"]


def test_a_source_of_the_wrong_family(tmp_path):
    answer = ask(tmp_path, {"domain": "v6.example"})
    assert [one["reason"] for one in answer["sources"][0]["obstacles"]] == ["no_source"]


WARMUP = {
    "warmup": {"w": {"stages": [100, 200], "providers": {"google": {"stages": [10, 20]}}, "spread": 0.0}},
}


def test_a_cold_source(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES[1], "warmup", "w")

    def prepare(box):
        cell = box.app.table.cell(b"cap:b:google")
        assert box.app.table.set_cap(cell, 7, 10)
        assert box.app.table.set_used(cell, 7, 4)

    google, other = ask(tmp_path, {"domain": "example.com"}, {"domain": "other.example"}, prepare=prepare, **WARMUP)
    plan = google["sources"][1]["warmup"]
    assert (plan["plan"], plan["key"], plan["cap"], plan["used"], plan["left"]) == ("w", "google", 10, 4, 6)
    assert google["sources"][1]["can_send"]
    assert google["sources"][0]["warmup"] is None
    elsewhere = other["sources"][1]
    assert elsewhere["warmup"]["key"] == "*"
    assert [one["reason"] for one in elsewhere["obstacles"]] == ["warmup_cap"]
    assert "no day is open" in elsewhere["obstacles"][0]["detail"]


def test_the_adaptive_rate(tmp_path):
    def prepare(box):
        table = box.app.table
        table.set_rate(table.cell(b"adaptive:a:google"), 36 * SECOND_NS, 1)

    answer = ask(tmp_path, {"domain": "example.com"}, prepare=prepare)
    assert answer["sources"][0]["adaptive"]["per_hour"] == 100.0
    assert answer["sources"][1]["adaptive"] is None


# -- putting answers together ------------------------------------------------------------------------------------------


def waiting(domain, *queues):
    return {"waiting": {"domain": domain, "queues": list(queues)}, "sources": []}


def queue(pool, ready, sessions, reason="ready", detail=""):
    return {
        "pool": pool, "ready": ready, "sessions": sessions, "reason": reason, "detail": detail, "until_seconds": None,
    }  # fmt: skip


def test_workers_are_added_up():
    one = waiting(3, queue("default", 10, 2))
    two = waiting(4, queue("default", 5, 1, "rate_limit", "x"), queue("vip", 1, 0))
    told = merged([one, two], {})
    assert told["waiting"]["domain"] == 7
    assert told["waiting"]["queues"] == [queue("default", 15, 3, "rate_limit", "x"), queue("vip", 1, 0)]
    assert one["waiting"]["domain"] == 3  # left as it was


def test_the_governor_adds_stages_and_rules():
    capped = {"reason": "warmup_cap", "detail": "x", "until_seconds": None}
    answer = {
        "provider": {"name": "google"},
        "route": {"site": "g:25"},
        "sources": [
            {"name": "a", "warmup": None, "obstacles": [], "can_send": True},
            {"name": "b", "warmup": {"key": "google"}, "obstacles": [capped], "can_send": False},
            {"name": "c", "warmup": {"key": "*"}, "obstacles": [dict(capped)], "can_send": False},
        ],
    }
    rows = [
        {"source": "b", "key": "google", "stage": 3, "stages": 9, "state": "held", "why": "blocks", "cold": True},
        {"source": "b", "key": "*", "stage": 1, "stages": 9},
        {"source": "c", "key": "*", "stage": 9, "stages": 9, "state": "done", "why": "", "cold": False},
    ]
    asked = []

    def describe(source, place):
        asked.append((source, place))
        return {"source": source}

    told = with_governor(answer, rows, describe)
    a, b, c = told["sources"]
    assert asked == [("a", "google"), ("b", "google"), ("c", "google")]
    assert a["replies"] == {"source": "a"}
    assert (b["warmup"]["stage"], b["warmup"]["state"], b["can_send"]) == (3, "held", False)
    assert (c["can_send"], c["obstacles"]) == (True, [])  # it is warm by now
    assert with_governor({"sources": []}, rows, describe) == {"sources": []}


def test_unknown_hosts_are_their_own_place():
    answer = {"provider": {"name": "other"}, "route": {"site": "mx:25"}, "sources": [{"name": "a", "warmup": None}]}
    told = with_governor(answer, [], lambda source, place: {"place": place})
    assert told["sources"][0]["replies"] == {"place": "mx:25"}


def test_what_waits(tmp_path):
    """Mail that is queued for a site with no way to it."""
    answers = []

    async def work():
        async with box_of(tmp_path / "w") as box:
            box.app.board.set_suspensions(
                [{"id": "s1", "selectors": {"domain": "example.com"}, "why": "", "since": ""}]
            )
            await box.accepted(["x@example.com", "y@example.com", "z@other.example"])
            await asyncio.sleep(0)
            answers.append(await explain(box.app, "example.com"))

    run(work)
    assert answers[0]["waiting"]["domain"] == 2


# -- the control command -----------------------------------------------------------------------------------------------


class Slot:
    """A worker that answers with what it was given."""

    def __init__(self, number, answer):
        self.number = number
        self.state = "running"
        self.ready = asyncio.Event()
        self.ready.set()
        self.answer = answer
        self.asked = []

    async def request(self, command, arguments, seconds):
        self.asked.append((command, arguments))
        return self.answer


class Governor:
    class backoffs:
        @staticmethod
        def describe(source, place):
            return {"source": source, "place": place, "holds": []}

    @staticmethod
    def state():
        return {"warmup": [], "backoffs": [], "adaptive": []}


class Relay:
    def __init__(self, *slots):
        self.slots = list(slots)


def of_worker(domain):
    return {
        "provider": {"name": "google"},
        "route": {"site": "g:25"},
        "sources": [{"name": "a", "warmup": None}],
        "waiting": {"domain": domain, "queues": []},
    }


def test_the_command_asks_all_workers():
    relay = Relay(Slot(0, of_worker(2)), Slot(1, of_worker(3)))
    arguments = {"domain": "example.com", "pool": None, "source": "a"}
    told = asyncio.run(Commands(relay).carry_out("explain", arguments))
    assert told["waiting"]["domain"] == 5
    assert relay.slots[1].asked == [("explain", {"domain": "example.com", "source": "a"})]
    assert "replies" not in told["sources"][0]
    relay.governor = Governor()
    told = asyncio.run(Commands(relay).carry_out("explain", arguments))
    assert told["sources"][0]["replies"] == {"source": "a", "place": "google", "holds": []}


@pytest.mark.parametrize("arguments", [{}, {"domain": 5}, {"domain": "x.example", "polo": "x"}])
def test_the_command_is_strict(arguments):
    with pytest.raises(CommandError):
        asyncio.run(Commands(Relay(Slot(0, of_worker(0)))).carry_out("explain", arguments))
