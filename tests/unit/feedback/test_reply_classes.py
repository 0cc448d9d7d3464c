"""Reply classes: the rules are sound, the wordings of large providers mean what they should, a block is no bad address."""
# ruff: noqa: E501 - replies stand as hosts say them

from importlib import resources

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.cli.group import cli
from fastrelay.feedback import classes
from fastrelay.feedback.classes import CLASSES, ReplyClasses, built_in_classes, parse_reply
from fastrelay.limits.rules_file import built_in_rules, known_providers

# provider, reply, class
WORDINGS = [
    ("google", "550-5.1.1 The email account that you tried to reach does not exist. Please try", "bad_mailbox"),
    ("google", "452 4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to", "quota"),
    ("google", "552-5.2.2 The email account that you tried to reach is over quota.", "quota"),
    ("google", "550 5.2.1 The email account that you tried to reach is disabled.", "inactive"),
    ("google", "550 5.2.1 The email account that you tried to reach is inactive", "inactive"),
    (
        "google",
        "421-4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP address",
        "rate",
    ),
    ("google", "550-5.7.26 This mail has been blocked because the sender is unauthenticated.", "authentication"),
    ("google", "550-5.7.1 Our system has detected that this message is likely unsolicited mail.", "spam_content"),
    (
        "google",
        "550-5.7.1 Our system has detected that this message is likely suspicious due to the very low reputation of the sending domain",
        "reputation_block",
    ),
    ("google", "450 4.2.1 The user you are trying to contact is receiving mail too quickly.", "rate"),
    (
        "yahoo",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1",
        "rate",
    ),
    (
        "yahoo",
        "554 delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0] - mta1",
        "bad_mailbox",
    ),
    (
        "yahoo",
        "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list",
        "reputation_block",
    ),
    ("yahoo", "552 1 Requested mail action aborted, mailbox not found", "bad_mailbox"),
    ("yahoo", "554 5.7.9 Message not accepted for policy reasons.", "spam_content"),
    ("yahoo", "550 Requested action not taken: mailbox unavailable", "bad_mailbox"),
    ("outlook", "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).", "bad_mailbox"),
    (
        "outlook",
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).",
        "reputation_block",
    ),
    ("outlook", "552 5.2.2 mailbox full", "quota"),
    (
        "microsoft365",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        "bad_mailbox",
    ),
    (
        "microsoft365",
        "550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [X.prod.protection.outlook.com]",
        "bad_mailbox",
    ),
    (
        "microsoft365",
        "550 5.7.606 Access denied, banned sending IP [192.0.2.1]. To request removal",
        "reputation_block",
    ),
    (
        "microsoft365",
        "550 5.7.515 Access denied, sending domain EXAMPLE.COM does not meet the required authentication level.",
        "authentication",
    ),
    (
        "microsoft365",
        "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded",
        "quota",
    ),
    ("microsoft365", "550 5.7.1 RESOLVER.RST.NotAuthorized; not authorized", "policy"),
    ("microsoft365", "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)", "rate"),
    ("microsoft365", "550 5.7.64 TenantAttribution; Relay Access Denied", "relay_denied"),
    ("apple", "550 5.1.1 <x@icloud.com>: user does not exist", "bad_mailbox"),
    ("apple", "554 5.7.1 [CS01] Message rejected due to local policy.", "reputation_block"),
    ("apple", "552 5.2.2 <x@icloud.com>: user is over quota", "quota"),
    ("gmx_webde", "550 Requested action not taken: mailbox unavailable", "bad_mailbox"),
    (
        "gmx_webde",
        "554 IP address is block listed. For explanation visit https://postmaster.gmx.net/",
        "reputation_block",
    ),
    ("gmx_webde", "550 5.2.1 <x@gmx.de>... User is inactive", "inactive"),
    (
        "gmx_webde",
        "550 Benutzer hat das Speichervolumen ueberschritten. / User has exhausted allowed storage space.",
        "quota",
    ),
    ("tonline", "550 5.1.1 user unknown", "bad_mailbox"),
    ("tonline", "552 5.2.2 Over STORAGE quota", "quota"),
    (
        "tonline",
        "554 IP=192.0.2.1 - A problem occurred. (Ask your postmaster for help or to contact tobr@rx.t-online.de to clarify.)",
        "reputation_block",
    ),
    (
        "orange",
        "550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR204_418 [418]",
        "bad_mailbox",
    ),
    ("orange", "550 5.2.1 Boite du destinataire archivee. Archived recipient. OFR_417 [417]", "inactive"),
    (
        "orange",
        "421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. OFR005_104 [104]",
        "rate",
    ),
    ("orange", "550 5.2.0 Mail rejete. Mail rejected. OFR_506 [506]", "reputation_block"),
    (
        "mailru",
        "550 Message was not accepted -- invalid mailbox.  Local mailbox x@mail.ru is unavailable: user not found",
        "bad_mailbox",
    ),
    ("mailru", "550 spam message rejected. Please visit http://help.mail.ru/notspam-support/id", "spam_content"),
    (
        "mailru",
        "550 Message was not accepted -- invalid mailbox. Local mailbox x@mail.ru is unavailable: account is disabled",
        "inactive",
    ),
    ("yandex", "550 5.7.1 No such user!", "bad_mailbox"),
    ("yandex", "552 5.2.2 Mailbox size limit exceeded", "quota"),
    ("yandex", "554 5.7.1 Message rejected under suspicion of SPAM; https://ya.cc/1IrBc", "spam_content"),
    (
        "qq",
        "550 Mailbox not found. http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000728",
        "bad_mailbox",
    ),
    ("qq", "550 Ip frequency limited. http://service.mail.qq.com", "rate"),
    ("qq", "550 Mail content denied. http://service.mail.qq.com/cgi-bin/help", "spam_content"),
    ("netease", "554 DT:SPM 163 smtp10,xx http://mail.163.com/help/help_spam_16.htm?ip=192.0.2.1", "spam_content"),
    ("netease", "550 User not found: x@163.com", "bad_mailbox"),
    ("netease", "550 User suspended", "inactive"),
    ("comcast", "550 5.1.1 Not our Customer", "bad_mailbox"),
    (
        "comcast",
        "554 resimta-po-01v.sys.comcast.net comcast 192.0.2.1 found on one or more DNSBLs, see http://postmaster.comcast.net/smtp-error-codes.php#BL000001",
        "reputation_block",
    ),
    (
        "comcast",
        "421 4.1.0 192.0.2.1 Throttled - try again later. Please see http://postmaster.comcast.net/smtp-error-codes.php#RL000010",
        "rate",
    ),
    ("comcast", "552 5.2.2 Over quota", "quota"),
    ("other", "550 5.1.1 <x@cox.net> recipient rejected", "bad_mailbox"),
    ("other", "554 cox.net AUP#CXBL", "reputation_block"),
    (
        "other",
        "550 5.1.1 <x@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
        "bad_mailbox",
    ),
    ("other", "554 5.7.1 <x@example.com>: Relay access denied", "relay_denied"),
    (
        "other",
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.1",
        "reputation_block",
    ),
    (
        "other",
        "450 4.2.0 <x@example.com>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/x.html",
        "greylist",
    ),
    ("other", "451 4.7.1 Greylisting in action, please come back later", "greylist"),
    ("other", "450 4.1.8 <a@b>: Sender address rejected: Domain not found", "policy"),
    ("other", "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", "reputation_block"),
    ("other", "550 5.7.1 Unable to relay for x@example.com", "relay_denied"),
    ("other", "550-Verification failed for <a@b> 550 Sender verify failed", "policy"),
    ("other", "550 Unrouteable address", "bad_domain"),
    ("other", "550 5.2.1 The email account that you tried to reach is disabled", "inactive"),
    ("other", "554 5.4.14 Hop count exceeded - possible mail loop ATTR34", "protocol"),
    ("other", "550 5.1.1 User x (x@example.com) not listed in Domino Directory", "bad_mailbox"),
    ("other", "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", "relay_denied"),
    ("other", "511 sorry, no mailbox here by that name (#5.1.1 - chkuser)", "bad_mailbox"),
    ("other", "550 5.7.1 Message rejected due to content restrictions", "spam_content"),
    ("other", "552 5.3.4 Message size exceeds fixed limit", "size"),
    ("other", "523 the message size 12345 exceeds the size limit 1000 set for user <x>", "size"),
    ("other", "550 5.7.1 TRANSFAIL - SPF validation failed", "authentication"),
    ("other", "550 5.7.0 Must issue a STARTTLS command first", "tls"),
    ("other", "530 5.7.0 Authentication required", "authentication"),
    ("other", "421 4.3.2 Service not available", "connection"),
    ("other", "550 5.7.1 Your IP 192.0.2.1 is not allowed to send", "reputation_block"),
    ("other", "452 4.3.1 Insufficient system resources", "connection"),
    ("other", "550 mailbox is full", "quota"),
    ("other", "422 The email account that you tried to reach is over quota", "quota"),
    ("other", "550 No Such User Here", "bad_mailbox"),
    ("other", "550 Administrative prohibition", "policy"),
    ("other", "550 Invalid Recipient - https://community.mimecast.com/docs/DOC-1369#550 [x.us1]", "bad_mailbox"),
    (
        "other",
        "554 Email rejected due to security policies - https://community.mimecast.com/docs/DOC-1369#554",
        "policy",
    ),
    ("other", "550 5.1.1 unknown or illegal alias: x@example.com", "bad_mailbox"),
    ("other", "550 5.1.8 <a@b>... Domain of sender address a@b does not exist", "policy"),
    ("other", "550 Host unknown", "bad_domain"),
    ("other", "554 5.1.0 Sender denied", "policy"),
    ("other", "550 5.1.2 <x@example>... Host unknown (Name server: example: host not found)", "bad_domain"),
    (
        "other",
        "Host or domain name not found. Name service error for name=example.com type=MX: Host not found",
        "bad_domain",
    ),
    ("other", "connect to mx.example.com[192.0.2.1]:25: Connection timed out", "connection"),
    ("other", "Name service error for name=example.com type=MX: Host not found, try again", "bad_domain"),
    ("other", "550 Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", "reputation_block"),
    ("other", "550 5.2.2 <x@example.com> Mailbox quota exceeded", "quota"),
    ("other", "550 account closed", "inactive"),
    ("other", "550 5.1.1 <x@example.com> User doesn't exist: x@example.com", "bad_mailbox"),
    ("other", "554 qq Sorry, no valid recipients (#5.1.3)", "bad_mailbox"),
    ("other", "550 5.0.350 Remote server returned an error -> 550 Invalid recipient", "bad_mailbox"),
    (
        "other",
        "550 permanent failure for one or more recipients (x@example.com:550 5.1.1 x@example.com User unknown)",
        "bad_mailbox",
    ),
    ("other", "550 5.7.1 <x@example.com>... we do not relay", "relay_denied"),
    ("other", "554 rejected due to spam content", "spam_content"),
    ("other", "450 4.3.2 try again later", "connection"),
    ("other", "550 5.5.1 protocol error", "protocol"),
    ("other", "550 cuddlefish", "other"),
    ("other", "554 5.7.1 <x@example.com>: Recipient address rejected: Access denied", "policy"),
    ("other", "450 4.7.1 <x@example.com>: Recipient address rejected: Policy Rejection- Please try later.", "policy"),
    (
        "other",
        "550 5.1.1 <x@example.com>: Recipient address rejected: undeliverable address: host mx said: 550 No such user",
        "bad_mailbox",
    ),
    ("other", "550 5.2.1 <x@example.com>: mailbox disabled, not accepting messages", "inactive"),
    ("other", "550 Message rejected because 192.0.2.1 is blacklisted at spam.dnsbl.sorbs.net", "reputation_block"),
    ("other", "550 5.7.1 Recipient not authorized, your IP has been found on a block list", "reputation_block"),
]


def classified(provider, reply):
    code, enhanced = parse_reply(reply)
    return built_in_classes().classify(code, enhanced, reply.encode(), provider)


@pytest.mark.parametrize(("provider", "reply", "wanted"), WORDINGS)
def test_wordings(provider, reply, wanted):
    found = classified(provider, reply)
    assert found.reply_class == wanted, found.rule


def test_the_file_is_sound():
    text = resources.files("fastrelay.config").joinpath("defaults/replies.yaml").read_text(encoding="utf-8")
    rules, problems = classes.read_replies(text, "replies.yaml", timed=False)
    assert problems == []
    assert {rule.means for rule in rules} == set(CLASSES)
    assert {name for rule in rules for name in rule.providers} <= known_providers()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("name: a\n    codes: [550]", "where it is from"),
        ("name: a\n    source: x", "matches every refusal"),
        ("name: a\n    codes: [550]\n    source: x\n  - name: a\n    codes: [551]\n    source: x", "name of its own"),
        ("name: a\n    match: '('\n    source: x", "regular expression"),
        ("name: a\n    codes: [250]\n    source: x", "not a code of a refusal"),
        ("name: a\n    codes: [550]\n    means: bad\n    source: x", "bad"),
    ],
)
def test_what_is_wrong_is_said(rule, words):
    _, problems = classes.read_replies(f"rules:\n  - {rule}\n", "mine.yaml")
    assert any(words in str(problem) for problem in problems), problems


def test_no_block_is_about_the_recipient():
    """Whatever a back-off rule takes for a block or a throttle, no class may hold against the address."""
    texts = {
        "google_low_reputation": "550 5.7.1 very low reputation of the sending IP",
        "google_unauthenticated": "550 5.7.26 unauthenticated email from example.com is not accepted, DMARC policy",
        "yahoo_listed": "553 5.7.1 [BL21] Connections not accepted, ip in list",
        "yahoo_deferred": "421 4.7.0 [TSS04] temporarily deferred",
        "microsoft_blocked": "550 5.7.1 part of their network is on our block list (S3140)",
        "microsoft_reputation_rate": "421 RP-001 (S3114) The mail server IP has exceeded the rate limit",
        "apple_policy": "550 5.7.1 [HM08] Message rejected due to local policy",
        "gmx_webde_policy": "421 reject due to policy restrictions",
        "qq_frequency": "550 Domain frequency limited",
        "any_listed": "550 user x@y.example unknown, your host is blacklisted",
        "any_greylisted": "450 4.2.0 Recipient address rejected: Greylisted",
    }
    by_name = {rule.name: rule for rule in built_in_rules()}
    for name, reply in texts.items():
        provider = (by_name[name].providers or ["other"])[0]
        found = classified(provider, reply)
        assert found.about != "recipient", (name, found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("550 5.1.1 gone", (550, "5.1.1")),
        ("550-5.1.1 gone", (550, "5.1.1")),
        ("smtp;550 5.1.1 gone", (550, "5.1.1")),
        ("smtp; 550 #5.1.0 Address rejected.", (550, "5.1.0")),
        ("host mx.example[192.0.2.1] said: 452-4.2.2 full", (452, "4.2.2")),
        ("553 sorry (#5.7.1)", (553, "5.7.1")),
        ("Sorry, no mailbox here by that name. (#5.1.1)", (0, "5.1.1")),
        ("550 no dots 192.5.1.1", (550, "")),
        ("#<#5.01.001 smtp; 5.1.1>", (0, "5.1.1")),
        ("450 4.1.1 was 5.1.1", (450, "4.1.1")),
        ("nothing", (0, "")),
        ("", (0, "")),
    ],
)
def test_codes_in_a_line(text, wanted):
    assert parse_reply(text) == wanted


def test_an_enhanced_code_of_another_class_is_left_aside():
    found = built_in_classes().classify(550, "4.2.2", b"what", "other")
    assert (found.reply_class, found.enhanced) == ("other", "")
    assert built_in_classes().classify(450, "4.2.2", b"what", "other").reply_class == "quota"


def test_what_is_hard():
    assert classified("other", "550 5.1.1 user unknown").against_recipient
    assert not classified("other", "450 4.1.1 user unknown").against_recipient
    assert not classified("other", "552 5.2.2 mailbox full").against_recipient
    assert not classified("other", "554 5.7.1 rejected: spamhaus").against_recipient


def test_the_first_rule_decides():
    text = """
rules:
  - {name: one, match: 'gone', providers: [google], means: inactive, source: x}
  - {name: two, match: 'gone', means: policy, about: recipient, kind: soft, source: x}
  - {name: three, codes: [5xx], means: size, source: x}
"""
    rules, problems = classes.read_replies(text, "mine.yaml", timed=False)
    assert problems == []
    own = ReplyClasses(rules)
    assert own.classify(550, "", b"gone", "google").reply_class == "inactive"
    found = own.classify(550, "", b"gone", "yahoo")
    assert (found.reply_class, found.kind, found.about) == ("policy", "soft", "recipient")
    assert own.classify(550, "", b"", "yahoo").reply_class == "size"
    assert own.classify(450, "", b"", "yahoo").reply_class == "other"


@given(st.integers(0, 599), st.text(max_size=12), st.binary(max_size=3000))
def test_any_octets_have_a_class(code, enhanced, text):
    found = ReplyClasses(built_in_classes().rules[:20]).classify(code, enhanced, text)
    assert found.reply_class in CLASSES


def test_command():
    result = CliRunner().invoke(cli, ["classify", "550 5.1.1 <a@b.example>: user unknown"])
    assert result.exit_code == 0
    assert "bad_mailbox" in result.output
    assert "any_no_such_user" in result.output
    result = CliRunner().invoke(
        cli, ["classify", "--json", "--provider", "google", "-"], input="550-5.7.26 unauthenticated"
    )
    assert '"class": "authentication"' in result.output
    assert CliRunner().invoke(cli, ["classify", "--provider", "nobody", "550"]).exit_code == 2
