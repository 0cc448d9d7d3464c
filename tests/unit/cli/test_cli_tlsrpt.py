"""`fastrelay tlsrpt …` against a fake relay: what is asked for, what is shown."""

import json
from typing import Any

REPORT: dict[str, Any] = {
    "day": "2026-11-22",
    "domain": "a.test",
    "success": 5326,
    "failure": 3,
    "state": "sent",
    "detail": "",
    "destinations": [{"uri": "mailto:r@a.test", "state": "sent", "detail": "queued as w0-1\x1b"}],
}
WHOLE = {
    "policies": [
        {
            "policy": {"policy-type": "sts"},
            "failure-details": [
                {
                    "result-type": "certificate-expired",
                    "receiving-mx-hostname": "mx1.a.test",
                    "failed-session-count": 3,
                    "failure-reason-code": "expired",
                }
            ],
        }
    ]
}


def answer(*reports: dict[str, Any], lost: int = 0) -> dict[str, Any]:
    return {"days": ["20261122"], "reports": list(reports), "lost": lost, "sender": None}


def test_show(ask, fake_relay) -> None:
    failed = {**REPORT, "domain": "b.test", "state": "failed", "detail": "no answer", "destinations": []}
    fake_relay.answers["tlsrpt.show"] = answer(REPORT, failed, lost=4)
    result = ask("tlsrpt", "show", "--day", "2026-11-22")
    assert result.exit_code == 0
    assert fake_relay.arguments == {"day": "2026-11-22"}
    lines = result.output.splitlines()
    assert lines[1].split() == ["2026-11-22", "a.test", "5,326", "3", "sent"]
    assert "2026-11-22 a.test: mailto:r@a.test: sent (queued as w0-1" in result.output
    assert "\x1b" not in result.output
    assert "2026-11-22 b.test: no answer" in result.output
    assert "4 sessions were not counted" in result.output


def test_show_one_domain_says_what_failed(ask, fake_relay) -> None:
    fake_relay.answers["tlsrpt.show"] = answer({**REPORT, "report": WHOLE})
    result = ask("tlsrpt", "show", "--domain", "a.test")
    assert fake_relay.arguments == {"domain": "a.test"}
    assert "2026-11-22 a.test: sts: certificate-expired at mx1.a.test, 3 times: expired" in result.output


def test_show_nothing_and_json(ask, fake_relay) -> None:
    fake_relay.answers["tlsrpt.show"] = answer()
    assert ask("tlsrpt", "show").output == "nothing was counted\n"
    assert json.loads(ask("tlsrpt", "show", "--json").output) == answer()


def test_send(ask, fake_relay) -> None:
    fake_relay.answers["tlsrpt.send"] = {"due": 1, "passed_over": 2}
    result = ask("tlsrpt", "send", "--day", "2026-11-22", "--domain", "a.test", "--again")
    assert fake_relay.arguments == {"day": "2026-11-22", "domain": "a.test", "again": True}
    assert "1 report now on the way" in result.output
    assert "2 domains passed over" in result.output
    assert json.loads(ask("tlsrpt", "send", "--day", "2026-11-22", "--json").output) == {"due": 1, "passed_over": 2}


def test_an_error_of_the_relay_and_a_missing_day(ask, fake_relay) -> None:
    fake_relay.answers["tlsrpt.send"] = "that day (UTC) is not over; its counts are not complete"
    result = ask("tlsrpt", "send", "--day", "2026-11-22")
    assert result.exit_code == 1
    assert "is not over" in result.stderr
    assert ask("tlsrpt", "send").exit_code == 2
