"""One webhook's requests: its session, its secrets, one POST and what its answer means.

Bounds: a timeout for the whole request, ANSWER_BYTES of an answer are read. Redirects are not followed, proxies of the
environment not used, cookies not kept; certificates are verified. Any address may be posted to: the operator says
where.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import logging
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fastrelay import __version__
from fastrelay.config.feedback import Webhook
from fastrelay.feedback import signing
from fastrelay.feedback.hook_formats import Request

if TYPE_CHECKING:
    import aiohttp
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

log = logging.getLogger("fastrelay.webhooks")

ANSWER_BYTES = 4096
SECRET_FILE_BYTES = 64 << 10
REQUESTS = ("ok", "busy", "refused", "server_error", "gone", "redirect", "timeout", "tls", "unreachable")


class Answer(NamedTuple):
    """What became of a request. `result`: one of REQUESTS. `retry_after`: s that the endpoint asks for."""

    result: str
    words: str = ""
    status: int = 0
    retry_after: float | None = None


@dataclass(slots=True)
class Secrets:
    """What the files of a webhook hold."""

    secret: bytes | None = field(default=None, repr=False)
    key: EllipticCurvePrivateKey | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)


def read_secrets(hook: Webhook) -> Secrets:
    """Raises OSError or SecretError, which name no contents."""
    found = Secrets()
    if hook.secret_file is not None:
        with open(hook.secret_file, "rb") as file:
            octets = file.read(SECRET_FILE_BYTES)
        if hook.format == "sendgrid":
            found.key = signing.read_key(octets)
        else:
            found.secret = signing.read_secret(octets.decode("ascii", "replace"))
    if hook.password_file is not None:
        with open(hook.password_file, encoding="utf-8", errors="strict") as text:
            found.password = text.readline(SECRET_FILE_BYTES).rstrip("\r\n")
    return found


def answer_of(status: int, retry_after: str | None, words: str, wall: float) -> Answer:
    """What an HTTP status means."""
    if 200 <= status < 300:
        return Answer("ok", "", status)
    said = f"answered {status} {words}".strip()
    if status == 410:
        return Answer("gone", said, status)
    if 300 <= status < 400:
        return Answer("redirect", f"{said} (redirects are not followed: name the place itself)", status)
    after = seconds_of(retry_after, wall) if status in (429, 503) else None
    if status == 429 or (status == 503 and after is not None):
        return Answer("busy", said, status, after)
    return Answer("refused" if status < 500 else "server_error", said, status)


def seconds_of(retry_after: str | None, wall: float) -> float | None:
    """The value of Retry-After (RFC 9110 section 10.2.3) in seconds from now."""
    if retry_after is None:
        return None
    word = retry_after.strip()
    if word.isascii() and word.isdigit():
        return float(word[:10])
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - wall)
    return None


class Poster:
    """Posts to one endpoint over one session, which is opened when it is needed."""

    def __init__(self, hook: Webhook, secrets: Secrets) -> None:
        self.hook = hook
        self.secrets = secrets
        self._session: aiohttp.ClientSession | None = None

    def headers(self, request: Request, wall: float) -> dict[str, str]:
        """The headers of one attempt: signatures carry its time."""
        timestamp = int(wall)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": request.identity,
            "webhook-timestamp": str(timestamp),
        }
        if self.secrets.secret is not None:
            headers["webhook-signature"] = signing.standard_webhooks(
                self.secrets.secret, request.identity, timestamp, request.body
            )
        if self.secrets.key is not None:
            prefix = "X-Twilio-Email-Event-Webhook-"
            headers[prefix + "Timestamp"] = str(timestamp)
            headers[prefix + "Signature"] = signing.sendgrid(self.secrets.key, str(timestamp), request.body)
        return headers

    async def post(self, request: Request, wall: float) -> Answer:
        """One attempt; it raises nothing."""
        import aiohttp

        hook = self.hook
        try:
            session = self._session = self._session or self._open()
            async with (
                asyncio.timeout(hook.timeout_seconds),
                session.post(
                    hook.url, data=request.body, headers=self.headers(request, wall), allow_redirects=False
                ) as answer,
            ):
                octets = await answer.content.read(ANSWER_BYTES)
        except TimeoutError:
            return Answer("timeout", f"no answer within {hook.timeout_seconds:g} s")
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            return Answer("tls", f"TLS failed: {error}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer("unreachable", str(error) or type(error).__name__)
        words = octets[:200].decode("ascii", "replace").replace("\r", " ").replace("\n", " ")
        return answer_of(answer.status, answer.headers.get("Retry-After"), words, wall)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        hook = self.hook
        context: ssl.SSLContext | bool = True
        if hook.ca_file is not None:
            context = ssl.create_default_context(cafile=hook.ca_file)
        headers = {"User-Agent": f"fastrelay/{__version__}"}
        if hook.username is not None:
            pair = f"{hook.username}:{self.secrets.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=2),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            max_line_size=8190,
            max_field_size=8190,
        )

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
