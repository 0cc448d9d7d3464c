"""A TLS report as RFC 8460 wants it: the record, the JSON, the mail."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.tls import reports_build as build
from fastrelay.tls.reports import RESULT_TYPES, Row

WHO = build.Reporter("Company-X", "mail.sender.example.com", "sts-reporting@company-x.example", "tls@company-x.example")
STS_TEXT = ["version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"]


def published(domain: str) -> tuple[list[str], list[str]] | None:
    return (STS_TEXT, ["*.mail.company-y.example"]) if domain == "company-y.example" else None


def the_example() -> dict[str, Any]:
    """The report of RFC 8460 appendix B, of our counts."""
    rows = [
        Row(
            "sts",
            [],
            5326,
            303,
            [
                [
                    "starttls-not-supported",
                    "mx2.mail.company-y.example",
                    "203.0.113.56",
                    "2001:db8:abcd:13::1",
                    "",
                    200,
                ],
                ["validation-failure", "mx-backup.mail.company-y.example", "203.0.113.58", "198.51.100.62", "words", 3],
                ["certificate-expired", "mx1.mail.company-y.example", "", "2001:db8:abcd:12::1", "", 100],
            ],
        )
    ]
    return build.report("20160401", "company-y.example", rows, WHO, published)


def test_the_example_of_the_rfc() -> None:
    assert the_example() == {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": build.report_id("20160401", "company-y.example", "mail.sender.example.com"),
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": STS_TEXT,
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:13::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                    },
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:12::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "validation-failure",
                        "sending-mta-ip": "198.51.100.62",
                        "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                        "receiving-ip": "203.0.113.58",
                        "failure-reason-code": "words",
                        "failed-session-count": 3,
                    },
                ],
            }
        ],
    }


def test_a_policy_that_is_no_longer_known_and_those_of_dane() -> None:
    rows = [Row("sts", [], 1), Row("tlsa", ["3 1 1 ab"], 2), Row("no-policy-found", [], 3)]
    policies = build.report("20160401", "other.example", rows, WHO, published)["policies"]
    assert [one["policy"] for one in policies] == [
        {"policy-type": "sts", "policy-domain": "other.example"},
        {"policy-type": "tlsa", "policy-domain": "other.example", "policy-string": ["3 1 1 ab"]},
        {"policy-type": "no-policy-found", "policy-domain": "other.example"},
    ]
    assert all("failure-details" not in one for one in policies)


def test_the_report_id_is_the_same_for_each_attempt_and_differs_by_day_domain_and_host() -> None:
    ids = {build.report_id(day, domain, host) for day in ("1", "2") for domain in ("a", "b") for host in ("x", "y")}
    assert len(ids) == 8
    assert build.report_id("1", "a", "x") in ids
    assert build.packed(the_example()) == build.packed(the_example())


def test_result_types_are_those_of_the_registry() -> None:
    assert len(RESULT_TYPES) == 11  # RFC 8460 section 4.3


def test_the_mail() -> None:
    built = the_example()
    raw = build.mail("20160401", "company-y.example", built, "reports@company-y.example", WHO, 1_459_555_200.0)
    lines = raw.split(b"\r\n")
    assert all(len(line) <= 200 and b"\n" not in line and b"\r" not in line for line in lines)
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert not message.defects
    assert message["From"] == "tls@company-x.example"
    assert message["To"] == "reports@company-y.example"
    assert message["TLS-Report-Domain"] == "company-y.example"
    assert message["TLS-Report-Submitter"] == "mail.sender.example.com"
    assert message["TLS-Required"] == "No"
    assert message["Subject"] == (
        f"Report Domain: company-y.example Submitter: mail.sender.example.com Report-ID: <{built['report-id']}>"
    )
    assert message["Message-ID"].startswith("<20160401.")
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "tlsrpt"
    text, attached = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert attached.get_filename() == (
        "mail.sender.example.com!company-y.example!1459468800!1459555199!20160401.json.gz"
    )
    assert json.loads(gzip.decompress(attached.get_content())) == built


def test_each_mailbox_gets_a_message_id_of_its_own() -> None:
    built = the_example()
    ids = {
        email.message_from_bytes(build.mail("20160401", "y.example", built, to, WHO, 0.0))["Message-ID"]
        for to in ("a@y.example", "b@y.example")
    }
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("texts", "uris"),
    [
        ([b"v=TLSRPTv1; rua=mailto:reports@example.com"], ["mailto:reports@example.com"]),
        ([b"v=TLSRPTv1;rua=mailto:a@x.test,https://x.test/r;"], ["mailto:a@x.test", "https://x.test/r"]),
        ([b"v=TLSRPTv1; ext=1; rua = mailto:a@x.test , mailto:a@x.test"], ["mailto:a@x.test"]),
        ([b"something else", b"v=TLSRPTv1; rua=mailto:a@x.test"], ["mailto:a@x.test"]),
        ([b"v=TLSRPTv1; rua=mailto:a@x.test", b"v=TLSRPTv1; rua=mailto:b@x.test"], []),
        ([b"v=TLSRPTv1"], []),
        ([b"v=TLSRPTv10; rua=mailto:a@x.test"], []),
        ([b" v=TLSRPTv1; rua=mailto:a@x.test"], []),
        ([b"v=TLSRPTv1; rua=ftp://x.test/,http://x.test/,mailto:,https://,mailto:nobody"], []),
        ([b"v=TLSRPTv1; rua=https://user:word@x.test/,https://x.test:99999/"], []),
        ([b"v=TLSRPTv1; rua=mailto:a%2Cb@x.test,mailto:a%0D%0AX:@x.test,mailto:a%3E@x.test"], []),
        ([b"v=TLSRPTv1; rua=mailto:a%40b@x.test"], ["mailto:a%40b@x.test"]),
        ([b"v=TLSRPTv1; rua=mailto:\xc3\xbc@x.test"], []),
        ([b"v=TLSRPTv1; rua=" + b"mailto:" + b"a" * 2000 + b"@x.test"], []),
        ([], []),
    ],
)
def test_the_record(texts: list[bytes], uris: list[str]) -> None:
    assert build.destinations(texts) == uris


def test_a_record_names_only_so_many() -> None:
    record = b"v=TLSRPTv1; rua=" + b",".join(b"mailto:a%d@x.test" % n for n in range(50))
    assert len(build.destinations([record])) == build.URIS_AT_MOST


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_record_is_read(texts: list[bytes]) -> None:
    for uri in build.destinations([b"v=TLSRPTv1; rua=" + text for text in texts[:1]] + texts[1:]):
        kind, where = build.destination(uri)  # type: ignore[misc]
        assert kind in ("mailto", "https")
        assert where.isascii()
        assert where.isprintable()
        assert " " not in where


def test_text_of_several_strings() -> None:
    assert build.txt_text(b"\x03abc\x02de") == b"abcde"
    assert build.txt_text(b"") == b""
    assert build.txt_text(b"\x09abc") == b"abc"  # cut short
