"""AUTH at smart hosts (RFC 4954): what we say, mechanism by mechanism. PLAIN, LOGIN and CRAM-MD5.

The client machine asks `begin` and then `respond` for each challenge; it sees to it that nothing of this is said to a
server that has not proved who it is under TLS (loopback aside). No secret is in any `repr`.

Known faults: a changed password file is read at the next reload (SIGHUP), not before.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from typing import TYPE_CHECKING

from fastrelay.route.names import parse_endpoint

if TYPE_CHECKING:
    from fastrelay.config.schema import Config
    from fastrelay.route.site import Groups, Site

log = logging.getLogger(__name__)

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")  # in the order of our liking; all are under TLS
INITIAL_RESPONSE_OCTETS = 480  # a longer one waits for its 334 (RFC 4954 section 4: a line of 512)


class Login:
    """One exchange. `begin` and `respond` give lines without CRLF, None where there is nothing to say."""

    def __init__(self, username: str, password: bytes | None) -> None:
        self._username = username.encode()
        self._password = password
        self._left: list[bytes] = []  # responses to come, in order
        self.mechanism = ""
        self.problem = "" if password is not None else "the password for AUTH can't be read, see the relay's log"

    def begin(self, offered: tuple[str, ...]) -> bytes | None:
        """The AUTH command for the first of our mechanisms that the server offers; None: `problem` says why not."""
        self.mechanism = next((one for one in MECHANISMS if one in offered), "")
        if self._password is None:
            return None
        if not self.mechanism:
            names = ", ".join(offered) or "none"
            self.problem = f"the server offers no mechanism of AUTH that we have; it offers {names}"
            return None
        command = b"AUTH " + self.mechanism.encode()
        self._left = []
        if self.mechanism == "PLAIN":
            response = _base64(b"\0" + self._username + b"\0" + self._password)
            if len(response) <= INITIAL_RESPONSE_OCTETS:
                return command + b" " + response
            self._left = [response]
        elif self.mechanism == "LOGIN":
            self._left = [_base64(self._username), _base64(self._password)]
        return command

    def respond(self, challenge: bytes) -> bytes | None:
        """The answer to the text of a 334."""
        if self.mechanism != "CRAM-MD5" or self._password is None:
            return self._left.pop(0) if self._left else None
        self.mechanism, self._left = "", []
        try:
            digest = hmac.new(self._password, base64.b64decode(challenge, validate=True), "md5").hexdigest()
        except binascii.Error:
            return None
        return _base64(self._username + b" " + digest.encode())


def _base64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


class Logins:
    """Whom we are at which smart hosts, by the configured routes.

    `earlier`: those before a reload. The process may have given up the right to read a file since, so what was read
    from it then goes on to be used.
    """

    def __init__(self, config: Config, earlier: Logins | None = None) -> None:
        self._by_site: dict[tuple[Groups, str], bytes | None] = {}
        self._passwords: dict[str | None, bytes | None] = {}
        known = {} if earlier is None else earlier._passwords
        for route in config.routes:
            if route.hosts is None or route.username is None:
                continue
            hosts = tuple(parse_endpoint(host, config.delivery.port) for host in route.hosts)
            groups = tuple((host,) for host in dict.fromkeys(hosts))
            password = _password(route.password_file, known.get(route.password_file))
            self._passwords[route.password_file] = password
            self._by_site.setdefault((groups, route.username), password)

    def login(self, site: Site) -> Login | None:
        """A new exchange, where the hosts of a site want one."""
        if not site.username:
            return None
        return Login(site.username, self._by_site.get((site.groups, site.username)))


def _password(path: str | None, known: bytes | None) -> bytes | None:
    """The first line of a file; what is known of it where it can't be read."""
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        what = "mail for its hosts waits" if known is None else "the password of before is used"
        log.error("routes: the password file %s can't be read (%s): %s", path, error.strerror, what)
        return known
