"""The HTTP(S) end of unsubscribing, at listeners.unsubscribe. Loaded only where that is set: it needs aiohttp.

    GET, HEAD   a page with a button; nothing changes, since scanners of mail follow links
    POST        List-Unsubscribe=One-Click (RFC 8058) or the button: unsubscribed, on stable storage, then 200
    OPTIONS     what is allowed
    /healthz    200, for load balancers

No answer is a redirect, sets a cookie, or may be kept; no page loads anything from elsewhere.

Bounds: unsubscribe.connections, handshakes included, a part of them from one address; HEAD_SECONDS for the
first request's header, BODY_SECONDS for a body of BODY_OCTETS, WRITE_SECONDS for the answer and the next header;
unsubscribe.requests_per_minute of one address (an IPv6 /64 is one), of ADDRESSES at a time.

Known faults: a web server in front that is not in proxy_from is one address, and its limit everybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from fastrelay.errors import FastrelayError
from fastrelay.feedback.bounce_mime import parse_content_type, read_message
from fastrelay.feedback.unsubscribe_page import Page, built_in, custom, read_page
from fastrelay.metrics import names
from fastrelay.tls.server import ServerTls

if TYPE_CHECKING:
    from fastrelay.app import App
    from fastrelay.config.schema import Config
    from fastrelay.feedback.desk import Desk
    from fastrelay.feedback.reference import Reference
    from fastrelay.feedback.unsubscribe import Method, Unsubscribe

log = logging.getLogger("fastrelay.feedback")
# What is no HTTP comes from anybody, at any rate: no line of the log for it.
_quiet = logging.getLogger("fastrelay.feedback.http")
_quiet.disabled = True

HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
WRITE_SECONDS = 20.0
HANDSHAKE_SECONDS = 10.0
LOCK_SECONDS = 30.0  # of stable storage
BODY_OCTETS = 64 << 10
LINE_OCTETS = 8190
ADDRESSES = 50_000
OF_ONE_ADDRESS = 4  # a part of the connections that one address may have: one in so many, at least 8
BACKLOG = 1024
PAUSE_SECONDS = 0.5  # after an accept that failed
HEALTH = "/healthz"
ALLOWED = "GET, HEAD, POST, OPTIONS"
ONE_CLICK = ("list-unsubscribe", "one-click")  # RFC 8058 section 3.1; some programs change the case
BUTTON = ("unsubscribe", "page")

_BUILT_IN_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_CUSTOM_CSP = (
    "default-src 'none'; style-src 'unsafe-inline' 'self' https:; img-src 'self' https: data:; font-src 'self' https:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "fastrelay",
}
_STATUS: dict[Page, int] = {
    "ask": 200, "done": 200, "unknown": 404, "unusable": 410, "empty": 400, "busy": 429, "large": 413, "failed": 503,
    "method": 405, "nothing": 404,
}  # fmt: skip


class Limiter:
    """So many requests a minute of one address, that many at once."""

    def __init__(self, per_minute: int) -> None:
        self._free_at: dict[str, float] = {}  # when all that an address used is given back
        self.configure(per_minute)

    def configure(self, per_minute: int) -> None:
        self._gap = 60.0 / per_minute

    def allows(self, address: str, now: float) -> bool:
        """Counts a request, unless there were too many."""
        free_at = max(self._free_at.get(address, 0.0), now)
        if free_at - now > 60.0 - self._gap:
            return False
        if address not in self._free_at and len(self._free_at) >= ADDRESSES:
            self.forget(now)
            if len(self._free_at) >= ADDRESSES:
                address = ""  # all others together
                free_at = max(self._free_at.get(address, 0.0), now)
                if free_at - now > 60.0 - self._gap:
                    return False
        self._free_at[address] = free_at + self._gap
        return True

    def forget(self, now: float) -> None:
        """Addresses that used nothing lately."""
        self._free_at = {address: at for address, at in self._free_at.items() if at > now}


class HttpServer:
    """One listener, for the life of the process."""

    def __init__(self, desk: Desk, part: Unsubscribe) -> None:
        listener = desk.config.listeners.unsubscribe
        assert listener is not None
        self._desk = desk
        self._part = part
        self.connections = 0
        self.address: str | None = None
        self._of_address: dict[str, int] = {}
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._bind = listener.address
        self._implicit = (listener.tls or ("implicit" if desk.config.tls.certificate else "none")) == "implicit"
        self.tls = ServerTls(cast("App", desk)) if self._implicit else None
        self._limiter = Limiter(desk.config.unsubscribe.requests_per_minute)
        self._server = web.Server(self.respond, request_factory=_request)
        self.configure(desk.config)

    def configure(self, config: Config) -> None:
        """Pages, limits, certificate. CertificateFault, OSError, ValueError at the start; a reload keeps what was."""
        try:
            pages = [path and read_page(path) for path in (config.unsubscribe.page, config.unsubscribe.done_page)]
            if self.tls is not None:
                self.tls.configure(config.tls)
                if self.tls.context is None:
                    raise ValueError("listeners.unsubscribe wants TLS, and there is no tls.certificate")
        except (FastrelayError, OSError, ValueError) as error:
            if self.address is None:
                raise
            log.error("the unsubscribe page stays as it is: %s", error)
            return
        self._page, self._done_page = pages
        self._prefix = config.unsubscribe.path
        self._most = config.unsubscribe.connections
        self._limiter.configure(config.unsubscribe.requests_per_minute)
        listener = config.listeners.unsubscribe
        proxies = listener.proxy_from if listener is not None else []
        self._proxies = [ipaddress.ip_network(one, strict=False) for one in proxies]

    # -- connections --------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Listens; the address. OSError."""
        host, port = self._bind
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._socket = listening
        bound = listening.getsockname()[1]
        self.address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        self._accepting = asyncio.create_task(self._accept())
        return self.address

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._socket is not None
        while True:
            if self.connections >= self._most:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                connection, peer = await loop.sock_accept(self._socket)
            except OSError as error:
                log.warning("the unsubscribe page can't take a connection: %s", error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            address = str(peer[0])
            mine = self._of_address.get(address, 0)
            if mine >= max(8, self._most // OF_ONE_ADDRESS) and not self._is_proxy(address):
                connection.close()
                self._count("too_many_connections")
                continue
            self.connections += 1
            self._of_address[address] = mine + 1
            task = asyncio.create_task(self._begin(connection, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _begin(self, connection: socket.socket, address: str) -> None:
        """The handshake, and the protocol. From then on the connection counts itself."""
        context = self.tls.context if self.tls is not None else None
        timeout = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": 1.0} if context else {}
        made = Connection(self, address)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: made, connection, ssl=context, **cast("dict[str, Any]", timeout)
            )
        except (OSError, TimeoutError):  # of TLS, too
            self._count("handshake")
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if not made.began:
                connection.close()
                self.ended(address)

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def ended(self, address: str) -> None:
        """A connection is gone."""
        self.connections -= 1
        left = self._of_address.get(address, 1) - 1
        if left > 0:
            self._of_address[address] = left
        else:
            self._of_address.pop(address, None)
        self._room.set()

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.ended(connection.address)

    def second(self, now: float) -> None:
        """The certificate, connections that are too slow, addresses that are quiet."""
        if self.tls is not None:
            self.tls.look(now)
        for connection in [one for one in self._open if one.deadline <= now]:
            self._count("slow")
            connection.abort()
        self._limiter.forget(now)
        self._desk.meters.slab.set(self._desk.meters.entry(names.UNSUBSCRIBE_CONNECTIONS), self.connections)

    async def close(self) -> None:
        """No new requests; those in hand get an answer, if they are quick."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for task in list(self._handshakes):
            task.cancel()
        await self._server.shutdown(2.0)
        for connection in list(self._open):
            connection.abort()

    @property
    def now(self) -> float:
        return self._desk.clock.monotonic()

    @property
    def handler(self) -> web.Server:
        return self._server

    # -- requests -----------------------------------------------------------------------------------------------------

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        connection = cast("Connection", request.protocol)
        connection.deadline = self.now + BODY_SECONDS + LOCK_SECONDS
        try:
            return await self._answer(request)
        except ConnectionError:
            raise  # the client went
        except Exception:
            log.exception("a request for the unsubscribe page failed; please report this")
            return self._show("failed", request, close=True)
        finally:
            connection.deadline = self.now + WRITE_SECONDS

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == HEALTH:
            return web.Response(text="ok\n", headers=_HEADERS)
        if not path.startswith(self._prefix.rstrip("/")):
            return self._show("nothing", request)
        if not self._limiter.allows(_group(self._client(request)), self.now):
            response = self._show("busy", request)
            response.headers["Retry-After"] = "60"
            return response
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={**_HEADERS, "Allow": ALLOWED})
        if request.method not in ("GET", "HEAD", "POST"):
            response = self._show("method", request)
            response.headers["Allow"] = ALLOWED
            return response
        reference = self._part.find(request.path_qs[len(self._prefix.rstrip("/")) :])
        if reference is None:
            return self._show("unknown", request)
        if not reference.recipient:
            return self._show("unusable", request)
        if request.method == "POST":
            return await self._post(request, reference)
        return self._show("ask", request, reference)

    async def _post(self, request: web.BaseRequest, reference: Reference) -> web.Response:
        if (request.content_length or 0) > BODY_OCTETS:
            return self._show("large", request)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return self._show("large", request)
        except TimeoutError:
            self._count("slow")
            return self._show("empty", request, close=True)
        method = method_of(request.headers.get("Content-Type", ""), body)
        if method is None:
            return self._show("empty", request)
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await asyncio.shield(self._part.take(reference, method))
        except (OSError, FastrelayError, TimeoutError) as error:
            log.error("an unsubscribe could not be kept: %s", error)
            response = self._show("failed", request)
            response.headers["Retry-After"] = "120"
            return response
        return self._show("done", request, reference)

    def _show(
        self, page: Page, request: web.BaseRequest, reference: Reference | None = None, *, close: bool = False
    ) -> web.Response:
        """A page, or without its body where HEAD asks."""
        self._count(page)
        recipient = sender = ""
        if reference is not None:
            recipient = reference.recipient.decode("utf-8", "replace")
            sender = reference.sender_domain.decode("utf-8", "replace")
        own = {"ask": self._page, "done": self._done_page}.get(page)
        text = custom(own, recipient, with_form=page == "ask") if own else built_in(page, recipient, sender)
        headers = {**_HEADERS, "Content-Security-Policy": _CUSTOM_CSP if own else _BUILT_IN_CSP}
        response = web.Response(
            status=_STATUS[page], text=text, content_type="text/html", charset="utf-8", headers=headers
        )
        if close or page in ("large", "busy"):
            response.force_close()
        return response

    def _count(self, result: str) -> None:
        self._desk.meters.count(names.UNSUBSCRIBE_REQUESTS, result=result)

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._proxies)

    def _client(self, request: web.BaseRequest) -> str:
        """The address that counts: behind our own web servers the last one in X-Forwarded-For that is none of them."""
        peer = cast("Connection", request.protocol).address
        if not self._proxies or not self._is_proxy(peer):
            return peer
        told = ",".join(request.headers.getall("X-Forwarded-For", []))[-1000:]
        for one in reversed(told.split(",")):
            try:
                address = str(ipaddress.ip_address(_without_port(one.strip())))
            except ValueError:
                break
            peer = address
            if not self._is_proxy(address):
                break
        return peer


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """With a bound of ours for the body."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_OCTETS)


class Connection(RequestHandler):  # type: ignore[type-arg]
    """One connection, counted from its start to its end, with a deadline (monotonic seconds) for whatever is due."""

    def __init__(self, server: HttpServer, address: str) -> None:
        self.began = False
        self.address = address
        self.deadline = server.now + HEAD_SECONDS
        self._of = server
        super().__init__(
            server.handler,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=WRITE_SECONDS,
            logger=_quiet,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=LINE_OCTETS,
            max_field_size=LINE_OCTETS,
            lingering_time=1.0,
            read_bufsize=BODY_OCTETS,
            auto_decompress=False,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.began = True
        self.deadline = self._of.now + HEAD_SECONDS
        self._of.opened(self)
        super().connection_made(transport)

    def connection_lost(self, error: BaseException | None) -> None:
        self._of.closed(self)
        super().connection_lost(error)

    def abort(self) -> None:
        """Now."""
        transport = self.transport
        self.deadline = float("inf")
        if transport is not None:
            with contextlib.suppress(OSError):
                transport.abort()


def method_of(content_type: str, body: bytes) -> Method | None:
    """What a POST asks for: its pairs, whatever their form is said to be; None where it is neither."""
    kind, parameters = parse_content_type(content_type, "")
    pairs = _form_data(content_type, body) if kind == "multipart/form-data" and parameters.get("boundary") else []
    if not pairs:
        text = body.decode("utf-8", "replace").strip()
        with contextlib.suppress(ValueError):
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    folded = [(name.strip().lower(), value.strip().lower()) for name, value in pairs]
    if ONE_CLICK in folded:
        return "one-click"
    return "page" if BUTTON in folded else None


def _form_data(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """The pairs of multipart/form-data (RFC 7578)."""
    head = f"Content-Type: {re.sub(r'[^ -~]', '', content_type)}\n\n".encode()
    pairs = []
    for part in read_message(head + body).parts[:100]:
        _, parameters = parse_content_type("x/x;" + part.field("content-disposition").partition(";")[2])
        pairs.append((parameters.get("name", ""), part.content().strip().decode("utf-8", "replace")))
    return pairs


def _without_port(address: str) -> str:
    """Of an address as proxies write it: 192.0.2.1:80, [2001:db8::1]:80."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _group(address: str) -> str:
    """Whose requests count together: of IPv6 a /64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
