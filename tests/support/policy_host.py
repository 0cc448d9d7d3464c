"""An HTTPS server that publishes MTA-STS policies, in a thread of its own, and a relay that fetches them there."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from aiohttp import web
from support import sts_relay
from support.net import free_endpoint, split_endpoint
from support.relay import RelayProcess
from support.tls_certificates import Certificate


class PolicyHost:
    """A context manager. `policies`: by domain; a domain without one is 404. `asked`: requests by domain."""

    def __init__(self, folder: Path, authority: Certificate, domains: list[str], **validity: object) -> None:
        names = [f"mta-sts.{domain}" for domain in domains]
        leaf = authority.issue("policies", *names, **validity)
        (folder / "policies.pem").write_bytes(leaf.pem + leaf.key_pem)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "policies.pem")
        self.policies: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.address, self.port = split_endpoint(free_endpoint())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def publish(self, domain: str, mode: str, *mx: str, max_age: int = 604800) -> None:
        lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {one}" for one in mx), f"max_age: {max_age}"]
        self.policies[domain] = "".join(f"{line}\r\n" for line in lines)

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        domain = request.host.partition(":")[0].removeprefix("mta-sts.")
        self.asked[domain] += 1
        policy = self.policies.get(domain)
        if policy is None or request.path != "/.well-known/mta-sts.txt":
            return web.Response(status=404, text="nothing here")
        return web.Response(text=policy)

    async def _start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self.port, ssl_context=self._context).start()

    def __enter__(self) -> PolicyHost:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


class StsRelay(RelayProcess):
    """A relay that fetches policies from the test's host."""

    https: PolicyHost
    authority: Path

    def spawn(self) -> subprocess.Popen[bytes]:
        script = [sys.executable, sts_relay.__file__, str(self.config_path), str(self.authority), str(self.https.port)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                script, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.env,
                cwd=self.directory,
            )  # fmt: skip
        return self.process
