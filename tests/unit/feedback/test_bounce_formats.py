"""Bounce messages in the formats of many mail systems: what, who, why, about which message."""

import pytest
from support.bounces import COPY, SAMPLES, plain, report

from fastrelay.feedback.bounce import parse_bounce
from fastrelay.feedback.bounce_forms import forms_file

CASES = [pytest.param(*sample, id=name) for name, sample in SAMPLES.items()]


@pytest.mark.parametrize(("message", "what", "recipients"), CASES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_formats(message, what, recipients, end):
    found = parse_bounce(message.replace(b"\n", end))
    assert (found.what, [each.address for each in found.recipients]) == (what, [each[0] for each in recipients]), found
    for have, (_, status, reply_class) in zip(found.recipients, recipients, strict=True):
        assert status is None or have.status == status, have
        assert reply_class is None or have.reply_class == reply_class, have


def test_the_samples_are_many():
    assert len([each for each in SAMPLES.values() if each[2]]) >= 50


def test_forms_have_names_of_their_own_and_a_source():
    forms = forms_file().forms
    assert len({form.name for form in forms}) == len(forms)
    assert all(form.source and form.address for form in forms)
    assert {form.action for form in forms} == {"failed", "delayed", "delivered"}


@pytest.mark.parametrize("name", ["postfix_report", "qmail", "exim", "exchange2010", "gmail_old", "smartermail", "gmx"])
def test_which_message_of_ours(name):
    original = parse_bounce(SAMPLES[name][0]).original
    assert original.message_id == "<issue-47.reader@news.example>"
    assert original.reference == "fabc234"
    assert original.subject == "The garden in November"
    assert original.sender == "news@news.example"


def test_a_field_of_our_own_and_the_envelope_id():
    message = report(
        "Final-Recipient: rfc822; a@b.example\nAction: failed\nStatus: 5.1.1", copy="X-Mine: 4711\n" + COPY
    )
    found = parse_bounce(message, reference_field="X-Mine")
    assert (found.original.reference, found.original.envelope_id) == ("4711", "env-1")


def test_verp_names_the_recipient_where_nothing_else_does():
    text = plain("The mailbox is full.\n", "Undelivered Mail Returned to Sender")
    assert parse_bounce(text).recipients == []
    found = parse_bounce(text, verp_recipient="reader@far.example")
    assert (found.what, found.how, found.recipients[0].address) == ("bounce", "verp", "reader@far.example")
    vacation = SAMPLES["vacation"][0]
    assert parse_bounce(vacation, verp_recipient="reader@far.example").what == "auto_reply"


def test_our_sender_and_the_daemon_are_no_recipients():
    text = plain(
        "Your message could not be delivered.\n\npostmaster@far.example\nbounces@news.example\n"
        "mailer-daemon@far.example\n"
        "<news@news.example>\n\nOriginal message headers:\n\n" + COPY
    )
    assert parse_bounce(text).recipients == []


def test_helpers_in_the_text_are_no_recipients():
    text = plain("Your message was rejected as spam. Questions? Mail our team, help@far.example, or see far.example.\n")
    assert parse_bounce(text).recipients == []


def test_one_recipient_of_a_wider_form_is_the_one_that_the_field_names():
    text = plain(
        "A message that you sent could not be delivered. The following address failed:\n\n"
        "  a@far.example\n  b@far.example\n",
        more="X-Failed-Recipients: a@far.example\n",
    )
    assert [each.address for each in parse_bounce(text).recipients] == ["a@far.example"]


def test_a_report_of_the_postmaster_counts():
    message = report("Final-Recipient: rfc822; postmaster@far.example\nAction: failed\nStatus: 5.1.1")
    assert parse_bounce(message).recipients[0].address == "postmaster@far.example"


def test_json():
    found = parse_bounce(SAMPLES["postfix_report"][0]).as_json()
    assert found["recipients"][0]["reply_class"] == "bad_mailbox"
    assert found["original"]["reference"] == "fabc234"
