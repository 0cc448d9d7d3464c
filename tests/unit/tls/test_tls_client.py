"""TLS towards MX hosts without sockets: contexts, resumed sessions, and what failures are called."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

import pytest

from fastrelay.config.security import OutboundTls
from fastrelay.sim.certificates import Authority, Flaw
from fastrelay.tls import client
from fastrelay.tls.client import ClientContext, Contexts, classify, describe, describe_certificate, name_with_key

HOST = "mx.a.example"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def contexts(authority: Authority, tmp_path: Path) -> Contexts:
    return Contexts(OutboundTls(ca_file=authority.write(str(tmp_path / "ca.pem"))))


class Pair:
    """Two ends of a connection in memory, once their handshake is done. Raises ssl.SSLError where it fails."""

    def __init__(self, context: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(to_client, to_server, server_hostname=name)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        ends = [self.client, self.server]
        for _ in range(10):
            for end in list(ends):
                try:
                    end.do_handshake()
                    ends.remove(end)
                except ssl.SSLWantReadError:
                    continue
            if not ends:
                break
        self.server.write(b"220 hello\r\n")  # the tickets of TLS 1.3 come along
        assert self.client.read(100) == b"220 hello\r\n"


def test_each_context_is_made_once(contexts: Contexts) -> None:
    assert contexts.unverified() is contexts.unverified()
    assert len({id(one) for one in (contexts.unverified(), contexts.verified(), contexts.dane())}) == 3
    assert contexts.verified().check_hostname
    assert contexts.verified().verify_mode == ssl.CERT_REQUIRED
    for context in (contexts.unverified(), contexts.dane()):
        assert context.verify_mode == ssl.CERT_NONE
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert Contexts(OutboundTls(min_version="1.3")).unverified().minimum_version == ssl.TLSVersion.TLSv1_3


def test_the_cas_of_the_system() -> None:
    assert Contexts(OutboundTls()).verified().check_hostname


def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Contexts(OutboundTls(ca_file=str(tmp_path / "none.pem"))).verified()
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(OSError):
        Contexts(OutboundTls(ca_file=str(tmp_path / "empty.pem"))).verified()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_under_its_name_alone(
    contexts: Contexts, authority: Authority, version: ssl.TLSVersion
) -> None:
    server = authority.server(HOST)
    server.maximum_version = version
    context = contexts.verified()
    here, there = name_with_key(HOST, "192.0.2.1", 25), name_with_key(HOST, "192.0.2.2", 25)
    first = Pair(context, server, here)
    assert not first.client.session_reused
    context.keep(here, first.client)
    assert Pair(context, server, here).client.session_reused
    assert not Pair(context, server, there).client.session_reused
    assert not Pair(context, server, HOST).client.session_reused
    assert not Pair(contexts.unverified(), server, here).client.session_reused, "other contexts have their own"
    context.forget(here)
    assert not Pair(context, server, here).client.session_reused


def test_a_name_without_key_is_not_kept(contexts: Contexts, authority: Authority) -> None:
    context = contexts.unverified()
    context.keep(HOST, Pair(context, authority.server(HOST), HOST).client)
    assert not context.sessions


def test_sessions_kept_are_bounded(contexts: Contexts, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SESSIONS_KEPT", 3)
    context, server = contexts.unverified(), authority.server(HOST)
    names = [name_with_key(HOST, f"192.0.2.{n}", 25) for n in range(5)]
    for name in (*names, names[2]):
        context.keep(name, Pair(context, server, name).client)
    assert list(context.sessions) == [names[3], names[4], names[2]]


def test_no_name_no_sni(contexts: Contexts, authority: Authority) -> None:
    """A host that is an address has no name to show; the key is cut off."""
    seen: list[str | None] = []
    server = authority.server(HOST)
    server.sni_callback = lambda tls, name, context: seen.append(name)
    Pair(contexts.unverified(), server, name_with_key("", "192.0.2.1", 25))
    Pair(contexts.unverified(), server, name_with_key(HOST, "192.0.2.1", 25))
    assert seen == [None, HOST]


@pytest.mark.parametrize(
    ("flaw", "result", "words"),
    [
        ("wrong-name", "certificate-host-mismatch", "not valid for"),
        ("expired", "certificate-expired", "expired"),
        ("self-signed", "certificate-not-trusted", "self-signed"),
    ],
)
def test_what_is_wrong_with_a_certificate(
    contexts: Contexts, authority: Authority, flaw: Flaw, result: str, words: str
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        Pair(contexts.verified(), authority.server(HOST, flaw), HOST)
    kind, said = classify(caught.value)
    assert kind == result
    assert words in said
    Pair(contexts.unverified(), authority.server(HOST, flaw), HOST)
    Pair(contexts.dane(), authority.server(HOST, flaw), HOST)


def test_a_ca_that_is_not_ours(contexts: Contexts) -> None:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        Pair(contexts.verified(), Authority().server(HOST), HOST)
    assert classify(caught.value)[0] == "certificate-not-trusted"


def test_no_version_in_common(authority: Authority) -> None:
    server = authority.server(HOST)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError) as caught:
        Pair(Contexts(OutboundTls(min_version="1.3")).unverified(), server, HOST)
    kind, words = classify(caught.value)
    assert kind == "validation-failure"
    assert words.startswith("the TLS handshake failed: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "the TLS handshake timed out"),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            "broke in the TLS handshake: Connection reset",
        ),
        (ConnectionResetError("closed by the host"), "broke in the TLS handshake: closed by the host"),
        (ValueError("label too long"), "the TLS handshake failed: label too long"),
    ],
)
def test_what_is_no_word_of_tls(error: Exception, words: str) -> None:
    assert classify(error)[0] == "validation-failure"
    assert words in classify(error)[1]


def test_descriptions(contexts: Contexts, authority: Authority) -> None:
    pair = Pair(contexts.unverified(), authority.server(HOST), HOST)
    assert describe(pair.client) == {"version": "TLSv1.3", "cipher": pair.client.cipher()[0], "resumed": False}  # type: ignore[index]
    der = pair.client.getpeercert(binary_form=True)
    assert der is not None
    assert describe_certificate(der).startswith(f"certificate for {HOST}, by CN=CA of the internet in a box, until ")


def test_a_client_context_is_an_ssl_context(contexts: Contexts) -> None:
    """uvloop takes nothing else."""
    assert isinstance(contexts.unverified(), ssl.SSLContext)
    assert isinstance(contexts.unverified(), ClientContext)
