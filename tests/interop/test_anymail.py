"""django-anymail as a consumer: its webhook views for SendGrid and Postmark take what a webhook of ours posts."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.hook_server import Got, HookServer

from fastrelay.config.feedback import Webhook
from fastrelay.feedback.hook_formats import FORMATS
from fastrelay.feedback.hook_post import Poster, read_secrets
from fastrelay.feedback.signing import public_key_text

django = pytest.importorskip("django")
pytest.importorskip("anymail")

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def configured() -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            INSTALLED_APPS=["anymail"], ALLOWED_HOSTS=["*"], SECRET_KEY="test", USE_TZ=True, ANYMAIL={}, DEBUG=True
        )
        django.setup()


def line(event: str, **fields: Any) -> bytes:
    common = {
        "key": f"k-{event}-{len(fields)}", "event": event, "time": "2026-11-23T12:31:06.141Z", "id": "k3v5ya-2f",
        "recipient": "ann@example.net", "reverse_path": "news@sender.example", "campaign": "spring",
    }  # fmt: skip
    return json.dumps(common | fields).encode()


HARD = {"code": 550, "enhanced": "5.1.1", "reply": "550 5.1.1 no such user", "kind": "hard", "about": "recipient"}
LINES = [
    line("delivered", reply="250 2.0.0 Ok"),
    line("deferred", reply="451 later", attempt=2),
    line("failed", **HARD),
    line("complained"),
    line("unsubscribed", method="one-click"),
]


def posted(hook: Webhook, lines: list[bytes]) -> list[Got]:
    """What an endpoint gets of these lines."""

    async def main() -> list[Got]:
        import time

        server = await HookServer().start()
        poster = Poster(msgspec.structs.replace(hook, url=server.url), secrets)
        try:
            for request in FORMATS[hook.format].requests(lines):
                answer = await poster.post(request, time.time())
                assert answer.result == "ok", answer
            return server.got
        finally:
            await poster.close()
            await server.stop()

    secrets = read_secrets(hook)
    return asyncio.run(main())


def taken(view: Any, got: list[Got]) -> list[Any]:
    """The events that a view of anymail makes of the requests."""
    from anymail.signals import tracking
    from django.test import RequestFactory

    events: list[Any] = []

    def receive(sender: Any, event: Any, esp_name: str, **_: Any) -> None:
        events.append(event)

    tracking.connect(receive)
    try:
        for one in got:
            headers = {name: value for name, value in one.headers.items() if name not in ("Host", "Content-Length")}
            request = RequestFactory().post(
                "/hook", data=one.body, content_type="application/json", headers=headers, secure=True
            )
            response = view(request)
            assert response.status_code == 200
    finally:
        tracking.disconnect(receive)
    return events


@pytest.mark.usefixtures("configured")
@pytest.mark.filterwarnings("ignore:django-anymail has dropped official support for SendGrid")
def test_sendgrid_signed(tmp_path: Path) -> None:
    from anymail.exceptions import AnymailWebhookValidationFailure
    from anymail.webhooks.sendgrid import SendGridTrackingWebhookView
    from django.core.exceptions import SuspiciousOperation

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    hook = Webhook(name="app", url="http://127.0.0.1/", format="sendgrid", secret_file=f"{tmp_path}/key.pem")
    got = posted(hook, LINES)
    view = SendGridTrackingWebhookView.as_view(tracking_webhook_verification_key=public_key_text(key))
    events = taken(view, got)
    assert [event.event_type for event in events] == ["delivered", "deferred", "bounced", "complained", "unsubscribed"]
    assert {event.recipient for event in events} == {"ann@example.net"}
    assert events[2].mta_response == "550 5.1.1 no such user"
    assert events[2].tags == ["spring"]
    assert events[0].timestamp.isoformat() == "2026-11-23T12:31:06+00:00"
    assert len({event.event_id for event in events}) == 5
    forged = [got[0]._replace(body=got[0].body.replace(b"ann@", b"eve@"))]
    with pytest.raises((AnymailWebhookValidationFailure, SuspiciousOperation)):
        taken(view, forged)


@pytest.mark.usefixtures("configured")
def test_postmark_with_basic_authentication(tmp_path: Path) -> None:
    from anymail.webhooks.postmark import PostmarkTrackingWebhookView
    from django.core.exceptions import SuspiciousOperation
    from django.test import override_settings

    (tmp_path / "password").write_text("geheim\n")
    hook = Webhook(
        name="app", url="http://127.0.0.1/", format="postmark", username="me", password_file=f"{tmp_path}/password"
    )
    got = posted(hook, LINES)
    assert len(got) == len(LINES)
    wrong = [one._replace(headers={"Authorization": "Basic " + base64.b64encode(b"me:x").decode()}) for one in got]
    with override_settings(ANYMAIL={"WEBHOOK_SECRET": "me:geheim"}):
        view = PostmarkTrackingWebhookView.as_view()
        events = taken(view, got)
        with pytest.raises(SuspiciousOperation):
            taken(view, wrong)
    assert [event.event_type for event in events] == ["delivered", "deferred", "bounced", "complained", "unsubscribed"]
    assert events[2].reject_reason == "bounced"
    assert {event.recipient for event in events} == {"ann@example.net"}
    assert events[0].timestamp.isoformat() == "2026-11-23T12:31:06.141000+00:00"
    assert events[2].metadata["fastrelay_id"] == "k3v5ya-2f"
    assert events[2].tags == ["spring"]
