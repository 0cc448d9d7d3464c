"""Bounces without a machine-readable report, by many mail systems in many languages; and what only looks like one."""

import pytest
from support.bounce_letters import HEAD, LETTERS, R, letter

from fastrelay.feedback.bounce import parse_bounce
from fastrelay.feedback.bounce_forms import built_in_forms, cleaned, forms_file, reply_in, told
from fastrelay.feedback.classes import CLASSES

CASES = [pytest.param(*sample, id=name) for name, sample in LETTERS.items()]


@pytest.mark.parametrize(("message", "what", "recipients"), CASES)
def test_letters(message, what, recipients):
    found = parse_bounce(message)
    assert (found.what, sorted(each.address for each in found.recipients)) == (what, sorted(recipients)), found


@pytest.mark.parametrize(("message", "what", "recipients"), CASES)
def test_our_own_addresses_are_never_recipients(message, what, recipients):
    found = parse_bounce(message.replace(b"\n", b"\r\n"), our_addresses=["Editor@news.example"])
    addresses = {each.address for each in found.recipients}
    assert not addresses & {"news@news.example", "editor@news.example", "bounces@news.example"}


@pytest.mark.parametrize(
    ("name", "reply_class", "status"),
    [
        ("qmail_to_itself", "quota", "5.0.0"),
        ("exim_unrouteable", "bad_domain", ""),
        ("exim_delayed", "greylist", "4.0.0"),
        ("biglobe", "quota", ""),
        ("generic_sentence", "quota", ""),
        ("domino_because", "bad_mailbox", ""),
        ("domino_german", "bad_mailbox", ""),
        ("notes_japanese", "bad_mailbox", ""),
        ("imail_attempts", "connection", ""),
        ("1und1_size", "size", ""),
        ("barracuda", "spam_content", ""),
        ("mailenable_reason", "bad_domain", ""),
        ("zimbra_quota", "quota", "4.2.2"),
        ("exchange2010_german", "bad_mailbox", "5.1.1"),
    ],
)
def test_why(name, reply_class, status):
    recipient = parse_bounce(LETTERS[name][0]).recipients[0]
    assert (recipient.reply_class, recipient.status) == (reply_class, status), recipient


def made(text, **how):
    letter("made", text, **how)
    return parse_bounce(LETTERS.pop("made")[0])


def test_a_person_that_writes_the_words_of_a_system_among_others_is_none():
    text = "Hello,\n\nmy mail to other@far.example was returned, delivery failed: user unknown.\n"
    assert (
        made(text, subject="mail returned", sender="Paul <paul@person.example>", more="List-Unsubscribe: <x>\n").what
        == "other"
    )
    assert made(text, subject="A question", sender="Paul <paul@person.example>", more="").recipients == []


def test_addresses_of_helpers_and_in_links_are_no_recipients():
    text = (
        "Your message could not be delivered.\n\nIf you have questions, write to help@far.example.\n"
        "See https://far.example/?address=web@far.example&x=1\nFrom: news@news.example\nCc: cc@far.example\n"
        "The message <20261102.1@news.example> was returned.\n"
    )
    found = made(text)
    assert (found.what, found.recipients) == ("bounce", [])


def test_a_bounce_that_names_nobody_is_one_all_the_same():
    found = made("We could not deliver your message. Sorry.\n", subject="Delivery failure")
    assert (found.what, found.form) == ("bounce", "unread")
    assert made("Lunch is at one.\n", subject="Lunch", sender="postmaster@far.example", more="").what == "other"


def test_a_rejection_told_by_a_disposition_notification():
    message = (
        "Return-Path: <>\nFrom: postmaster@far.example\nTo: bounces@news.example\n"
        "Subject: Automatically rejected mail\n"
        "Auto-Submitted: auto-replied (rejected)\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=disposition-notification; boundary="=_m"\n\n--=_m\n\n'
        "Your message was automatically rejected by Sieve, a mail\nfiltering language.\n\n"
        "The following reason was given:\nNo.\n\n"
        "--=_m\nContent-Type: message/disposition-notification\n\n{}"
        "Disposition: automatic-action/MDN-sent-automatically; deleted\n\n"
        f"--=_m\nContent-Type: message/rfc822\n\n{HEAD}\n--=_m--\n"
    )
    found = parse_bounce(message.replace("{}", f"Final-Recipient: rfc822; {R}\n").encode())
    assert (found.what, [each.address for each in found.recipients]) == ("bounce", [R])
    read = message.replace("automatically rejected by Sieve", "read by Rita").replace("{}", "")
    assert parse_bounce(read.encode()).form == "mdn"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("无法发送到reader@far.example", "reader@far.example"),
        ("reader@far.example）不存在，邮件无法送达", "reader@far.example"),
        ("grün@bäume.example", "grün@bäume.example"),
        ("用户@例子.example", "用户@例子.example"),
        ("mailto:reader@far.example", "reader@far.example"),
        ("'reader@far.example'", "reader@far.example"),
    ],
)
def test_what_touches_an_address(text, address):
    assert cleaned(text) == address


def test_numbers_that_are_no_replies():
    assert reply_in("Remote server (216.122.20.147) issued an error") == (0, "")
    assert reply_in("from mx [204.202.242.71], 250 2.0.0 ok") == (0, "")
    assert reply_in("said: 550 5.1.1 unknown") == (550, "5.1.1")


def test_why_is_looked_for_near_the_address_first():
    text = f"The mailbox of somebody is full.\n\n{R}\n\nNo such user here.\n"
    assert told(text, R, "") == "No such user here."
    assert told("Sorry.\n", R, "") == "Sorry."


def test_the_file():
    forms = forms_file()
    assert all(each.means in CLASSES and each.source for each in forms.reasons)
    assert {form.words for form in forms.forms} == {"own", "common"}
    assert built_in_forms().bouncy("Undelivered Mail Returned to Sender")
    assert not built_in_forms().bouncy("Lunch")
    assert built_in_forms().is_system("Mail Delivery System <MAILER-DAEMON@far.example>")
    assert not built_in_forms().is_system("garden-bounces@lists.example")


@pytest.mark.parametrize(
    ("words", "reply_class"),
    [
        ("Your IP address has been suspended from sending.", "reputation_block"),
        ("The sender address does not exist.", "policy"),
        ("The address does not exist.", "bad_mailbox"),
        ("has failed due to a full mailbox, after numerous attempts", "quota"),
    ],
)
def test_words_about_us_come_before_words_about_the_recipient(words, reply_class):
    assert built_in_forms().reason(words) == reply_class
