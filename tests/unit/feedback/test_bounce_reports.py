"""Delivery reports as mail systems really write them: each case changes one thing about a report that is right."""

from __future__ import annotations

import base64
import json
import quopri

import pytest

from fastrelay.feedback import bounce_report
from fastrelay.feedback.bounce import MAX_FLUFL_DELIMITERS, parse_bounce
from fastrelay.feedback.bounce_class import provider_of
from fastrelay.feedback.bounce_mime import MAX_MENDS, MAX_OCTETS, Part, read_message

R = "reader@far.example"
HEAD = (
    "Return-Path: <>\nFrom: MAILER-DAEMON@mx.far.example\nTo: bounces@news.example\n"
    "Subject: Undelivered Mail Returned to Sender\nMIME-Version: 1.0\n"
)
COPY = (
    "Received: from relay.news.example by mx.far.example for <reader@far.example>; Mon, 2 Nov 2026 08:00:00 +0000\n"
    "Message-ID: <i47@news.example>\nX-Fastrelay-Reference: fabc\nFrom: News <news@news.example>\n"
    "To: Reader <reader@far.example>\nSubject: Garden\n\nHello\n"
)
GROUP = f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 User unknown\n"
MTA = "Reporting-MTA: dns; mx.far.example\n\n"
REPORT_TYPE = 'multipart/report; report-type=delivery-status; boundary="b"'
BAD = (R, "failed", "5.1.1")
A = ("a@far.example", "failed", "5.1.1")
C = ("c@far.example", "delayed", "4.2.2")


def report(
    groups: str = GROUP,
    top: str = MTA,
    text: str = "It failed.",
    kind: str = REPORT_TYPE,
    status_kind: str = "message/delivery-status",
    more: str = "",
    copy: str = COPY,
    copy_kind: str = "message/rfc822",
) -> str:
    given = f"Content-Type: {kind}\n" if kind else ""
    return (
        f"{HEAD}{given}\n--b\nContent-Type: text/plain\n\n{text}\n\n--b\nContent-Type: {status_kind}\n{more}\n"
        f"{top}{groups}\n--b\nContent-Type: {copy_kind}\n\n{copy}\n--b--\n"
    )


INNER = report().replace("--b", "--q").replace('"b"', '"q"')


def told(message: str | bytes) -> list[tuple[str, str, str]]:
    found = parse_bounce(message if isinstance(message, bytes) else message.encode())
    return [(each.address, each.action, each.status) for each in found.recipients]


def encoded(groups: str, charset: str) -> str:
    return base64.encodebytes(groups.replace("\n", "\r\n").encode(charset)).decode()


BASE64 = "Content-Transfer-Encoding: base64\n"
TWO = [
    "Final-Recipient: rfc822;a@far.example\nAction: failed\nStatus: 5.1.1\n",
    "Final-Recipient: rfc822;c@far.example\nAction: delayed\nStatus: 4.2.2\n",
]
ACTION_FIRST = [
    "Action: failed\nFinal-Recipient: rfc822;a@far.example\nStatus: 5.1.1\n",
    "Action: delayed\nFinal-Recipient: rfc822;c@far.example\nStatus: 4.2.2\n",
]
UNFOLDED = (
    "Received: from relay.news.example\n(192.0.2.7) by mx.far.example; Mon, 2 Nov 2026 08:00:00 +0000\n"
    "via another.far.example with HTTPS\n"
)
# Where the report stands, and how it is written down.
PLACES: dict[str, str | bytes] = {
    "as it should be": report(),
    "text/plain": report(status_kind="text/plain"),
    "octet-stream": report(status_kind="application/octet-stream; name=details.txt"),
    "xdelivery-status": report(status_kind="message/xdelivery-status ; name=a.txt"),
    "no report-type": report(kind="multipart/report; boundary=b"),
    "mixed": report(kind="multipart/mixed; boundary=b"),
    "no content type": report(kind=""),
    "another boundary": report(kind='multipart/report; boundary="zzz"'),
    "no boundary": report(kind="multipart/report"),
    "base64": report(encoded(GROUP, "ascii"), top="", more=BASE64),
    "base64 of utf-16": report(
        encoded(GROUP, "utf-16"), top="", more=BASE64, status_kind="message/delivery-status; charset=utf-16"
    ),
    "base64 of utf-16, not said": report(encoded(GROUP, "utf-16"), top="", more=BASE64),
    "quoted-printable": report(
        quopri.encodestring(GROUP.encode()).decode().replace("@", "=40"),
        more="Content-Transfer-Encoding: quoted-printable\n",
    ),
    "utf-16 said of ASCII": report(status_kind="message/delivery-status; charset=utf-16"),
    "all in utf-16": report().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + report().encode(),
    "an empty line first": b"   \n\n" + report().encode(),
    "NULs": report(GROUP.replace("5.1.1\n", "5.1.1\0\n")),
    "CR": report().replace("\n", "\r"),
    "CR CR LF": report().replace("\n", "\r\r\n"),
    "koi8-r beside it": report(text="Письмо не доставлено").encode("koi8-r"),
    "odd case": report(GROUP.replace("Final-Recipient", "FINAL-RECIPIENT").replace("Action", "action")),
    "space before the colon": report(GROUP.replace(": ", " : ")),
    "no space behind the colon": report(GROUP.replace(": ", ":")),
    "folded": report(f"Final-Recipient:\n rfc822;\n\t{R}\nAction:\n failed\nStatus:\n 5.1.1\n"),
    "empty lines in the group": report(f"Final-Recipient: rfc822;{R}\n\nAction: failed\n\nStatus: 5.1.1\n"),
    "no empty line before the group": report(top="Reporting-MTA: dns; mx.far.example\nArrival-Date: today\n"),
    "no fields of the message": report(top=""),
    "fields in the header of the part": report(more="Action: failed\nStatus: 5.1.1\n"),
    "indented": report("\n".join("  " + line for line in GROUP.split("\n")), top="  Reporting-MTA: dns; x\n\n"),
    "quoted": report("\n".join("> " + line for line in GROUP.split("\n")), top="> Reporting-MTA: dns; x\n>\n"),
    "twice": report(GROUP + "\n" + GROUP),
    "outcome before the group": report("Action: failed\nStatus: 5.1.1\n\n" + GROUP),
    "a line that is not folded": report(GROUP.replace("User unknown", "User\nunknown here: no\nand more")),
    "a header that lost its folding": UNFOLDED + report(kind=REPORT_TYPE.replace("; boundary", ";\nboundary")),
    "a header that lost its folding, further on": report().replace("MIME-Version", f"{UNFOLDED}MIME-Version"),
    "header in a text": report(copy_kind="text/plain; name=headers.txt"),
    "in a message of a gateway": (
        f"{HEAD}Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\n\nScanned by a gateway.\n"
        f"--o\nContent-Type: message/rfc822\n\n{report()}\n--o--\n"
    ),
    "in a message alone": f"{HEAD}Content-Type: message/rfc822\n\n{report()}",
    "in a multipart with a footer": (
        f"{HEAD}Content-Type: multipart/mixed; boundary=o\n\n--o\n{report().removeprefix(HEAD)}\n"
        "--o\nContent-Type: text/plain\n\nFooter of a list\n--o--\n"
    ),
    "header of our message": report(copy_kind="text/rfc822-headers"),
    "header of our message, global": report(copy_kind="message/global-headers"),
    "copy as text": report(
        copy="------ This is a copy of the message, including all the headers. ------\n\n" + COPY,
        copy_kind="text/plain",
    ),
    "one text": (
        f"{HEAD}Content-Type: text/plain\n\nYour message failed.\n\n{MTA}{GROUP}"
        f"\n----- Original message -----\n\n{COPY}"
    ),
    "no address, but in the text": report(
        "Action: failed\nStatus: 5.1.1\n", text=f"<{R}>: host mx.far.example[192.0.2.9] said: 550 5.1.1 unknown user"
    ),
    "no address, but in our message": report("Action: failed\nStatus: 5.1.1\n"),
}


@pytest.mark.parametrize("name", PLACES)
def test_where_a_report_stands(name):
    message = PLACES[name]
    found = parse_bounce(message if isinstance(message, bytes) else message.encode())
    assert (found.what, told(message)) == ("bounce", [BAD])
    assert (found.original.message_id, found.original.reference) == ("<i47@news.example>", "fabc")


FINAL = f"rfc822; {R}"
RECIPIENTS = {
    f"<{R}>": R,
    f"rfc822;<{R}>": R,
    f'rfc822; "Reader, R" <{R}>': R,
    f"rfc822; {R} (Reader)": R,
    f"RFC-822;{R}": R,
    f"rfc822 ; {R}": R,
    f"rfc822 {R}": R,
    f"rfc822: {R}": R,
    f"rfc822;rfc822;{R}": R,
    f";{R}": R,
    f"SMTP;{R}": R,
    f"unknown; {R}": R,
    f"x-local; {R}": R,
    f"LOCAL; {R}": R,
    f"rfc822;mailto:{R}": R,
    "LOCAL; reader": R,
    f"rfc822; '{R}'": R,
    f'rfc822; "{R}"': R,
    f"rfc822; {R}.": R,
    f"rfc822; @relay.example:{R}": R,
    f"rfc822; <@a.example,@b.example:{R}>": R,
    'rfc822; "odd reader"@far.example': '"odd reader"@far.example',
    'rfc822; <"odd@reader"@far.example>': '"odd@reader"@far.example',
    "rfc822; a/b=c'd!e%f@far.example": "a/b=c'd!e%f@far.example",
    "rfc822; reader@xn--fr-via.example": "reader@xn--fr-via.example",
    "rfc822; reader@[192.0.2.1]": "reader@[192.0.2.1]",
    "rfc822; reader@localhost": "reader@localhost",
    "rfc822; a@b.c": "a@b.c",
    "rfc822; reader@#far.example": "reader@#far.example",
    "rfc822; Reader@FAR.Example": "Reader@FAR.Example",
    "utf-8; j\\x{F6}rg@far.example": "jörg@far.example",
    "utf-8; jörg@fär.example": "jörg@fär.example",
    "=?utf-8?Q?rfc822;_reader=40far.example?=": R,
}


@pytest.mark.parametrize("value", RECIPIENTS)
def test_how_a_recipient_is_written(value):
    assert told(report(GROUP.replace(FINAL, value))) == [(RECIPIENTS[value], "failed", "5.1.1")]


@pytest.mark.parametrize(
    ("final", "original", "address"),
    [
        ("rfc822; other@third.example", f"rfc822;{R}", R),
        ("X400; /S=Reader/O=Far/C=DE/", f"rfc822;{R}", R),
        ("LOCAL; u1234", f"rfc822;<{R}>", R),
        ("rfc822; reader+a@far.example", "rfc822;reader+2Ba@far.example", "reader+a@far.example"),
        (FINAL, "rfc822;unknown", R),
        (FINAL, "rfc822;", R),
        (FINAL, "", R),
    ],
)
def test_the_recipient_that_we_sent_to(final, original, address):
    groups = GROUP.replace(FINAL, final) + f"Original-Recipient: {original}\n"
    assert told(report(groups)) == [(address, "failed", "5.1.1")]


@pytest.mark.parametrize("copy", ["To: one@far.example, two@far.example", "To: one@far.example\nCc: two@far.example",
                                  "To: list@far.example\nList-Id: <a.far.example>"])  # fmt: skip
def test_no_address_is_made_up(copy):
    found = parse_bounce(report("Action: failed\nStatus: 5.1.1\n", copy=f"Subject: Garden\n{copy}\n\nHello\n").encode())
    assert [each.address for each in found.recipients if each.address] == []
    other = parse_bounce(report(GROUP.replace(FINAL, "LOCAL; u1234"), copy=f"Subject: a\n{copy}\n\nHello\n").encode())
    assert [(each.address, each.final_recipient) for each in other.recipients] == [("", "u1234")]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("5.1.1 (bad mailbox 9.9.9)", "5.1.1"),
        ("5.01.001", "5.1.1"),
        ("#5.1.1", "5.1.1"),
        ("550 5.1.1", "5.1.1"),
        ("", "5.1.1"),  # of the diagnostic
        ("5.0.0", "5.0.0"),  # as reported
        ("5.7.606-649", "5.7.606"),
    ],
)
def test_how_a_status_is_written(value, status):
    found = parse_bounce(report(GROUP.replace("Status: 5.1.1", f"Status: {value}")).encode()).recipients[0]
    assert found.status == status
    if value == "5.0.0":
        assert found.reply_class == "bad_mailbox"  # by the diagnostic


def test_a_status_is_no_address_of_a_host():
    groups = f"Final-Recipient: {FINAL}\nAction: failed\nDiagnostic-Code: smtp; 550 Blocked, see 5.2.1.7\n"
    assert told(report(groups)) == [(R, "failed", "5.0.0")]


@pytest.mark.parametrize(
    ("action", "status", "what", "means"),
    [
        ("Failed (permanent failure)", "5.1.1", "bounce", "failed"),
        ("failure", "4.4.7", "bounce", "failed"),
        ("Delayed", "4.4.1", "delayed", "delayed"),
        ("relayed", "2.0.0", "notice", "relayed"),
        ("delivered", "2.1.5", "notice", "delivered"),
        ("expanded", "2.0.0", "notice", "expanded"),
        ("", "5.1.1", "bounce", "failed"),
        ("", "4.4.7", "delayed", "delayed"),
    ],
)
def test_actions(action, status, what, means):
    groups = f"Final-Recipient: {FINAL}\nAction: {action}\nStatus: {status}\n"
    message = report(groups, text="About your message.")
    assert (parse_bounce(message.encode()).what, told(message)) == (what, [(R, means, status)])


@pytest.mark.parametrize("between", ["", "\n", "   \t\n", "\n\n"])
@pytest.mark.parametrize("groups", [TWO, ACTION_FIRST])
def test_several_recipients(groups, between):
    assert told(report(between.join(groups))) == [A, C]


def test_two_reports_of_one_message():
    second = f"--b\nContent-Type: message/delivery-status\n\n{MTA}{TWO[1]}\n--b\nContent-Type: message/rfc822"
    assert told(report(TWO[0]).replace("--b\nContent-Type: message/rfc822", second)) == [A, C]


def test_cut_in_the_middle_of_a_group():
    assert told(report(TWO[0] + "\n" + TWO[1]).partition("Action: delayed")[0] + "Act") == [A, (C[0], "failed", "")]


def test_a_copy_of_ours_behind_the_report_is_no_part_of_it():
    copy = "Received: by x\nOriginal-Recipient: rfc822;other@far.example\nSubject: Garden\nStatus: RO\n\nHello\n"
    assert told(report(copy=copy).replace("--b\nContent-Type: message/rfc822\n\n", "\n")) == [BAD]


def test_a_bounce_of_a_bounce_is_about_its_own_recipient():
    own = "Final-Recipient: rfc822;bounces@old.example\nAction: failed\nStatus: 5.1.1\n"
    assert told(report(own, copy=INNER)) == [("bounces@old.example", "failed", "5.1.1")]
    text = (
        f"{HEAD}Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\n\nThis is the Postfix"
        " program\n\n<bounces@old.example>: host mx.old.example[192.0.2.3] said: 550 5.1.1 unknown\n"
        f"--o\nContent-Type: message/rfc822\n\n{report()}\n--o--\n"
    )
    assert [address for address, _, _ in told(text)] == ["bounces@old.example"]


@pytest.mark.parametrize("subject", ["A question", "Re: Undelivered Mail Returned to Sender"])
def test_a_person_who_shows_a_report_is_no_bounce(subject):
    message = f"From: Ann <ann@there.example>\nTo: bob@here.example\nSubject: {subject}\n\nWhat is this?\n\n{GROUP}"
    found = parse_bounce(message.encode())
    assert found.what == "other"
    assert not found.recipients


def test_a_challenge_is_no_bounce():
    groups = GROUP.replace("smtp; 550 5.1.1 User unknown", "X-Notice; Sender not pre-approved. Follow the instructions")
    found = parse_bounce(report(groups).encode())
    assert (found.what, found.recipients, found.original.reference) == ("challenge", [], "fabc")


def test_who_said_it():
    assert provider_of("gmail-smtp-in.l.google.com. (192.0.2.26, the server for the domain far.example.)") == "google"
    assert provider_of("GMAIL-SMTP-IN.L.GOOGLE.COM") == "google"
    assert provider_of("mx.far.example") == ""
    assert provider_of("") == ""
    assert provider_of("[192.0.2.1]") == ""


def test_our_reference_where_nothing_shows_the_copy():
    message = report(
        copy="Below is what you wrote.\n\nX-Fastrelay-Reference:\n fabc\n def\nSubject: a\n", copy_kind="text/x"
    )
    assert parse_bounce(message.encode()).original.reference == "fabcdef"


def notification(kind: str, outcome: dict[str, object], name: str) -> str:
    document = {
        "notificationType": kind,
        name: outcome,
        "mail": {"destination": [R], "headers": [{"name": "Message-ID", "value": "<i47@news.example>"},
                                                 {"name": "X-Fastrelay-Reference", "value": "fabc"}]},
    }  # fmt: skip
    return (
        "From: SES <no-reply@sns.amazonaws.com>\nTo: bounces@news.example\nSubject: AWS Notification Message\n\n"
        f"{json.dumps(document)}\n\n--\nIf you wish to stop receiving notifications from this topic, click below.\n"
    )


def test_a_notification_of_amazon_ses():
    given = {"emailAddress": f"Reader <{R}>", "action": "failed", "status": "5.1.1",
             "diagnosticCode": "smtp; 550 5.1.1 user unknown"}  # fmt: skip
    message = notification("Bounce", {"bounceType": "Permanent", "bouncedRecipients": [given]}, "bounce")
    folded = message.replace('"diagnosticCode"', '"diagn!\n osticCode"')
    for text in (message, folded):
        found = parse_bounce(text.encode())
        assert (found.what, found.how, told(text)) == ("bounce", "report", [BAD])
        assert found.recipients[0].reply_class == "bad_mailbox"
        assert (found.original.message_id, found.original.reference) == ("<i47@news.example>", "fabc")
    delivered = notification("Delivery", {"recipients": [R], "reportingMTA": "a8-60.smtp.example"}, "delivery")
    assert (parse_bounce(delivered.encode()).what, told(delivered)) == ("notice", [(R, "delivered", "")])
    complaint = notification("Complaint", {"complainedRecipients": [{"emailAddress": R}]}, "complaint")
    assert (parse_bounce(complaint.encode()).what, told(complaint)) == ("complaint", [])


@pytest.mark.parametrize("spoil", [("5.1.1", '5.1.1"'), ("failed", "\\ud800"), (R, "nobody"), ("[{", "{"), ("}}", "")])
def test_a_spoiled_notification_raises_nothing(spoil):
    given = {"emailAddress": R, "action": "failed", "status": "5.1.1"}
    message = notification("Bounce", {"bouncedRecipients": [given]}, "bounce").replace(*spoil)
    assert all(address in ("", R) for address, _, _ in told(message))
    deep = notification("Bounce", {}, "bounce").replace('"bounce": {}', '"bounce": ' + "[" * 100_000)
    assert told(deep) == []


# -- bounds -----------------------------------------------------------------------------------------------------------


def report_part(body: bytes) -> Part:
    return Part([], "message/delivery-status", {}, "", body)


def test_recipients_without_end_end():
    for group in (b"Final-Recipient: rfc822;r%d@far.example\nAction: failed\n\n",
                  b"Final-Recipient: rfc822;r%d@far.example\nAction: failed\n"):  # fmt: skip
        part = report_part(b"".join(group % number for number in range(5000)))
        assert len(bounce_report.read_report(part)[1]) == bounce_report.MAX_RECIPIENTS


def test_steps_through_a_report_are_bounded(monkeypatch):
    calls = []
    real = bounce_report.read_fields

    def counted(octets: bytes, at: int, most: int) -> tuple[list[tuple[str, bytes]], int]:
        calls.append(at)
        return real(octets, at, most)

    monkeypatch.setattr(bounce_report, "read_fields", counted)
    for body in (b"> \n" * 300_000, b"no field\n" * 100_000, b"A: b\n\n" * 100_000):
        calls.clear()
        bounce_report.groups_of(report_part(body))
        assert len(calls) <= bounce_report.MAX_STEPS


def test_mended_lines_are_bounded():
    octets = b"Subject: a\n" + b"no field\n" * 10_000 + b"To: b@far.example\n\nbody"
    assert len(read_message(octets).raw("subject")) <= len(b"a") + MAX_MENDS * len(b" no field")
    assert read_message(b"Subject: a\nDear Ann,\nthis is no header.\n\nbody").fields == [("subject", b"a")]


def test_the_last_resort_is_not_asked_about_many_parts(monkeypatch):
    def asked(_message: object) -> tuple[set[bytes], set[bytes]]:
        raise AssertionError("asked")

    monkeypatch.setattr("flufl.bounce.all_failures", asked)
    parts = "--b\nContent-Type: text/plain\n\nhello\n" * (MAX_FLUFL_DELIMITERS + 2)
    found = parse_bounce(f"{HEAD}Content-Type: multipart/mixed; boundary=b\n\n{parts}--b--\n".encode())
    assert not found.recipients


def test_a_report_behind_a_long_message_is_read():
    long = "Subject: a\n\n" + "tulips and their bulbs\n" * (MAX_OCTETS // 20)
    message = (
        f"{HEAD}Content-Type: {REPORT_TYPE}\n\n--b\nContent-Type: message/rfc822\n\n{long}\n"
        f"--b\nContent-Type: message/delivery-status\n\n{MTA}{GROUP}\n--b--\n"
    )
    assert told(message) == [BAD]


def test_messages_within_are_read_on_demand_alone():
    outer = f"{HEAD}Content-Type: message/rfc822\n\n{report(copy=INNER)}"
    whole = list(read_message(outer.encode()).walk())
    header_only = list(read_message(outer.encode(), messages=False).walk())
    assert len(header_only) < len(whole)
    assert sum(part.content_type == "message/delivery-status" for part in header_only) == 1


def test_a_report_whose_delimiters_are_lost():
    """The type says multipart, the body has no delimiter at all."""
    group = f"Final-Recipient: rfc822; {R}\nAction: failed\nStatus: 5.5.0\n"
    words = f"   ----- The following addresses had permanent fatal errors -----\n<{R}>\n"
    message = f"{HEAD}Content-Type: {REPORT_TYPE}\n\n{words}\n{MTA}{group}\n{COPY}"
    for end in ("\n", "\r\n", "\r"):
        assert told(message.replace("\n", end)) == [(R, "failed", "5.5.0")]


def test_an_unfolded_diagnostic_does_not_end_its_group():
    group = (
        "Diagnostic-Code: smtp; 550-Please log in first. \n550-mx.far.example [192.0.2.7]:25 does not\n"
        f"550 relay for you.\nStatus: 5.1.1\nAction: failed\nFinal-Recipient: rfc822; {R}\n"
    )
    for end in ("\n", "\r\n", "\r"):
        assert told(report(group).replace("\n", end)) == [BAD]


def test_a_gateway_that_names_nobody_around_a_report():
    """The copy below it is a bounce, too: whom that one went to is nobody who was not reached."""
    text = "The message was received today\n\n----- The following addresses had permanent delivery errors -----\n"
    message = (
        "From: Mail Delivery Subsystem <MAILER-DAEMON@gate.example>\nTo: notices@gate.example\n"
        'Subject: Returned mail: User unknown\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="o"\n\n'
        f"--o\nContent-Type: text/plain\n\n{text}\n--o\nContent-Type: message/rfc822\n\n{INNER}\n--o--\n"
    )
    assert told(message) == [BAD]


def test_the_header_names_whom_the_words_leave_out():
    """The copy went to somebody else first, who forwards."""
    message = (
        "From: Mail Delivery Subsystem <mailer-daemon@googlemail.com>\nTo: bounces@news.example\n"
        "Subject: Delivery Status Notification (Failure)\nX-Failed-Recipients: forward@far.example\n"
        f"Content-Type: {REPORT_TYPE}\n\n--b\nContent-Type: text/plain\n\n** Message not delivered **\n\n"
        f"Your settings are out of date.\n\n--b\nContent-Type: message/delivery-status\n\n\n--b\n"
        f"Content-Type: message/rfc822\n\nFrom: news@news.example\nTo: <{R}>\nMessage-ID: <i47@news.example>\n\nx\n"
        "--b--\n"
    )
    assert [address for address, _, _ in told(message)] == ["forward@far.example"]
    late = message.replace("(Failure)", "(Delay)").replace("not delivered", "not delivered yet")
    found = parse_bounce(late.encode())
    assert (found.what, [(each.address, each.action) for each in found.recipients]) == (
        "delayed",
        [("forward@far.example", "delayed")],
    )


def test_a_notification_as_a_string_in_one_of_sns():
    inner = json.dumps(
        {
            "notificationType": "Bounce",
            "bounce": {"bouncedRecipients": [{"emailAddress": R, "action": "failed", "status": "5.1.1"}]},
            "mail": {"headers": [{"name": "Subject", "value": "Gar!\n den"}]},
        }
    ).replace("!\\n den", "!\n den")
    body = '{\n  "Type" : "Notification",\n  "Message" : "' + inner.replace('"', '\\"') + '",\n  "Version" : "1"\n}\n'
    head = "From: no-reply@sns.example\nTo: bounces@news.example\nSubject: Notification Message\n\n"
    assert told(head + body) == [BAD]
    assert told(head + body.replace('\\"Bounce\\"', '\\"Bounce')) == []


def test_a_complaint_of_outlook_without_a_report():
    message = (
        "From: staff@hotmail.example\nTo: abuse@news.example\nSubject: complaint about message from 192.0.2.7\n"
        'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: message/rfc822\n\n'
        f"X-HmXmrOriginalRecipient: {R}\n{COPY}\n--b--\n"
    )
    found = parse_bounce(message.encode())
    assert (found.what, found.recipients, found.original.message_id) == ("complaint", [], "<i47@news.example>")
    returned = report(copy=f"X-HmXmrOriginalRecipient: {R}\n{COPY}")  # what comes back in a bounce is no complaint
    assert (parse_bounce(returned.encode()).what, told(returned)) == ("bounce", [BAD])


def test_a_recipient_that_the_header_of_the_bounce_shows_as_its_own():
    """DragonFly's bounce has the X-Original-To of the message that failed."""
    message = (
        f"X-Original-To: <{R}>\nFrom: MAILER-DAEMON <>\nTo: news@news.example\nSubject: Mail delivery failed\n\n"
        "This is the DragonFly Mail Agent v0.13 at news.example.\n\n"
        f"There was an error delivering your mail to <{R}>.\n\n"
        f"mx.far.example [192.0.2.7] did not like our RCPT TO:\n550 5.1.1 unknown\n\nMessage headers follow.\n\n{COPY}"
    )
    assert told(message) == [BAD]


def test_groups_with_fields_of_a_message_in_them():
    """A program that took the report apart and wrote it again gave each group a header of its own."""
    more = 'Content-Type: text/plain; charset="us-ascii"\nContent-Transfer-Encoding: 7bit\n'
    message = report(f"MIME-Version: 1.0\n{GROUP}{more}", top="MIME-Version: 1.0\n" + MTA.rstrip() + f"\n{more}\n")
    assert told(message) == [BAD]
    assert parse_bounce(message.encode()).reporting_mta == "mx.far.example"
