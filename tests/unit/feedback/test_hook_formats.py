"""Events in the formats of others: what their documents say, and what software that reads them makes of ours."""

import base64
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sendgrid.helpers.eventwebhook import EventWebhook
from standardwebhooks.webhooks import Webhook as Verifier

from fastrelay.config.feedback_rules import WEBHOOK_WORDS
from fastrelay.feedback import signing
from fastrelay.feedback.hook_formats import EVENTS, FORMATS

CAMPAIGN = "3f1a7a0e-6b0e-4a38-9a1a-0b2a1f6f3f11"


def line(event: str, **fields: Any) -> bytes:
    common = {"key": f"k-{event}", "event": event, "time": "2026-11-23T12:31:06.141Z", "id": "k3v5ya-2f"}
    if event != "accepted":
        common["recipient"] = "ann@example.net"
    return json.dumps(common | fields).encode()


HARD = {
    "code": 550, "enhanced": "5.1.1", "reply": "550 5.1.1 no such user", "class": "bad_mailbox", "kind": "hard",
    "about": "recipient", "reverse_path": "news@sender.example", "campaign": CAMPAIGN, "tenant": "blue",
}  # fmt: skip
BLOCKED = {
    "code": 554, "enhanced": "5.7.1", "reply": "554 5.7.1 blocked", "class": "reputation_block", "kind": "hard",
    "about": "us",
}  # fmt: skip
ALL = [
    line("accepted", recipients=["ann@example.net", "bob@example.net"]),
    line("delivered", code=250, reply="250 2.0.0 Ok"),
    line("deferred", code=451, reply="451 4.7.1 later", attempt=3),
    line("failed", **HARD),
    line("expired", reply="451 4.7.1 later", reason="expired", code=451),
    line("suppressed", reason="suppressed", suppression_reason="unsubscribe"),
    line("removed", reason="removed"),
    line("bounced", **BLOCKED),
    line("complained", feedback_type="abuse", campaign="spring"),
    line("unsubscribed", method="one-click"),
    line("suppression", reason="hard_bounce", scope="global", action="added"),
]


def bodies(name: str, lines: list[bytes]) -> list[Any]:
    return [json.loads(request.body) for request in FORMATS[name].requests(lines)]


def in_words(name: str) -> list[bytes]:
    return [one for one in ALL if json.loads(one)["event"] in FORMATS[name].words]


def test_the_configuration_knows_the_words() -> None:
    assert {name: found.words for name, found in FORMATS.items()} == WEBHOOK_WORDS
    assert {json.loads(one)["event"] for one in ALL} == EVENTS


class TestNative:
    def test_lines_as_they_are(self) -> None:
        (body,) = bodies("fastrelay", ALL)
        assert body["type"] == "events"
        assert body["timestamp"] == "2026-11-23T12:31:06.141Z"
        assert body["data"] == [json.loads(one) for one in ALL]

    def test_the_identity_is_of_the_events_not_of_their_order(self) -> None:
        one, other = (FORMATS["fastrelay"].requests(lines)[0] for lines in (ALL, ALL[::-1]))
        assert one.identity == other.identity
        assert one.identity != FORMATS["fastrelay"].requests(ALL[1:])[0].identity

    def test_nothing_of_nothing(self) -> None:
        for one in FORMATS.values():
            assert one.requests([]) == []
            assert one.requests([b"{", b"[]", b'{"key":"\xff"}']) == []


class TestSignatures:
    def test_standard_webhooks(self) -> None:
        secret = "whsec_" + base64.b64encode(bytes(range(32))).decode()
        now = int(datetime.now(UTC).timestamp())
        body = FORMATS["fastrelay"].requests(ALL)[0].body
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(now),
            "webhook-signature": signing.standard_webhooks(signing.read_secret(secret), "msg_1", now, body),
        }
        assert Verifier(secret).verify(body, headers)["type"] == "events"
        from standardwebhooks.webhooks import WebhookVerificationError

        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body + b" ", headers)

    def test_sendgrid(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        body = FORMATS["sendgrid"].requests(ALL)[0].body
        verifier = EventWebhook(signing.public_key_text(key))
        signature = signing.sendgrid(key, "1600112502", body)
        assert verifier.verify_signature(body.decode(), signature, "1600112502")
        assert not verifier.verify_signature(body.decode(), signature, "1600112503")

    @pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "whsec_!!!!", "whsec_" + "A" * 400, "ü"])
    def test_secrets_that_are_none(self, text: str) -> None:
        with pytest.raises(signing.SecretError) as caught:
            signing.read_secret(text)
        assert not text or text not in str(caught.value)

    def test_keys_that_are_none(self) -> None:
        def pem(key: Any) -> bytes:
            octets: bytes = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            return octets

        wrong = [
            b"",
            b"nonsense",
            pem(rsa.generate_private_key(65537, 2048)),
            pem(ec.generate_private_key(ec.SECP384R1())),
        ]
        for octets in wrong:
            with pytest.raises(signing.SecretError):
                signing.read_key(octets)
        assert signing.read_key(pem(ec.generate_private_key(ec.SECP256R1()))).key_size == 256


# What listmonk binds a request to (models.Bounce), and what it refuses (validateBounceFields).
LISTMONK = {
    "email": str, "subscriber_uuid": str, "campaign_uuid": str, "source": str, "type": str, "meta": dict,
    "created_at": str,
}  # fmt: skip


class TestListmonk:
    def test_schema(self) -> None:
        for body in bodies("listmonk", in_words("listmonk")):
            for name, value in body.items():
                assert isinstance(value, LISTMONK[name])
            assert re.fullmatch(r"[^@\s]+@[^@\s]+", body["email"])
            assert body["type"] in ("hard", "soft", "complaint")
            assert datetime.fromisoformat(body["created_at"]).tzinfo is not None  # RFC 3339, as Go reads it

    def test_what_is_hard(self) -> None:
        """A block is about us: nobody is to lose a subscriber for it."""
        kinds = {body["meta"]["event"]: body["type"] for body in bodies("listmonk", in_words("listmonk"))}
        assert kinds == {"failed": "hard", "expired": "soft", "bounced": "soft", "complained": "complaint"}

    def test_campaigns_that_are_uuids(self) -> None:
        failed, *_, complained = bodies("listmonk", in_words("listmonk"))
        assert failed["campaign_uuid"] == CAMPAIGN
        assert "campaign_uuid" not in complained
        assert complained["meta"]["campaign"] == "spring"


# Field → type, of Twilio's "Event Webhook Reference": those of every event, and those of each.
SENDGRID = {"email": str, "timestamp": int, "smtp-id": str, "event": str, "sg_event_id": str, "sg_message_id": str}
SENDGRID_EACH = {
    "processed": set(), "delivered": {"response"}, "deferred": {"response", "attempt"}, "dropped": {"reason", "status"},
    "bounce": {"reason", "status", "type", "bounce_classification"}, "spamreport": set(), "unsubscribe": set(),
}  # fmt: skip


class TestSendGrid:
    def test_schema(self) -> None:
        (body,) = bodies("sendgrid", in_words("sendgrid"))
        assert [one["event"] for one in body] == [
            *("processed", "processed", "delivered", "deferred", "bounce", "bounce", "dropped", "dropped", "bounce"),
            *("spamreport", "unsubscribe"),
        ]  # fmt: skip
        for one in body:
            for name, kind in SENDGRID.items():
                assert isinstance(one[name], kind)
            for name in SENDGRID_EACH[one["event"]]:
                assert isinstance(one[name], str)
                assert one[name]
            assert one["timestamp"] == 1795437066
        assert len({one["sg_event_id"] for one in body}) == len(body)

    def test_what_listmonk_takes_for_soft(self) -> None:
        """Its webhook for SendGrid looks at the classification, and for the campaign at a custom argument."""
        (body,) = bodies("sendgrid", [line("failed", **HARD), line("bounced", **BLOCKED)])
        assert [(one["type"], one["bounce_classification"]) for one in body] == [
            ("bounce", "Invalid Address"),
            ("blocked", "Reputation"),
        ]
        assert body[0]["XListmonkCampaign"] == CAMPAIGN


# Fields and types of Postmark's "Bounce webhook", "Delivery webhook", "Spam complaint webhook" and "Subscription change
# webhook".
POSTMARK_COMMON = {"MessageID": str, "ServerID": int, "MessageStream": str, "Tag": str, "Metadata": dict}
POSTMARK_BOUNCE = {
    "ID": int, "Type": str, "TypeCode": int, "Name": str, "Description": str, "Details": str, "Email": str, "From": str,
    "BouncedAt": str, "DumpAvailable": bool, "Inactive": bool, "CanActivate": bool, "Subject": str, "Content": str,
}  # fmt: skip
POSTMARK = {
    "Bounce": POSTMARK_BOUNCE,
    "SpamComplaint": POSTMARK_BOUNCE,
    "Delivery": {"Recipient": str, "DeliveredAt": str, "Details": str},
    "SubscriptionChange": {
        "ChangedAt": str, "Recipient": str, "Origin": str, "SuppressSending": bool, "SuppressionReason": str,
    },
}  # fmt: skip


class TestPostmark:
    def test_schema(self) -> None:
        found = bodies("postmark", in_words("postmark"))
        assert [(one["RecordType"], one.get("Type")) for one in found] == [
            ("Delivery", None), ("Bounce", "Transient"), ("Bounce", "HardBounce"), ("Bounce", "SoftBounce"),
            ("Bounce", "SoftBounce"), ("SpamComplaint", "SpamComplaint"), ("SubscriptionChange", None),
            ("SubscriptionChange", None),
        ]  # fmt: skip
        for one in found:
            fields = {"RecordType": str, **POSTMARK_COMMON, **POSTMARK[one["RecordType"]]}
            assert set(one) == set(fields)
            for name, kind in fields.items():
                assert type(one[name]) is kind, name
            uuid.UUID(one["MessageID"])
            assert all(isinstance(value, str) for value in one["Metadata"].values())
            assert one.get("ID", 0) < 2**53

    def test_suppressions_that_end(self) -> None:
        (body,) = bodies("postmark", [line("suppression", reason="complaint", action="removed")])
        assert (body["SuppressSending"], body["SuppressionReason"]) == (False, None)

    def test_the_same_identity_for_the_same_event(self) -> None:
        one, two = (FORMATS["postmark"].requests([line("failed", **HARD)])[0] for _ in range(2))
        assert one == two
        assert one.identity != FORMATS["postmark"].requests([line("delivered")])[0].identity
