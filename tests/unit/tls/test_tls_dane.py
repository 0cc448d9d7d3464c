"""TLSA records: which count, and which chains satisfy them."""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from support.tls_certificates import DURING, END, Certificate, make, only_signs

from fastrelay.tls.dane import Check, Tlsa, judge, matches_name, parse_tlsa, peer_chain, presented_names, strongest

NAMES = ("mx.test",)
AFTER = (END + datetime.timedelta(days=1)).timestamp()
NONE_NAMED = "no CA in its chain is named by its TLSA records"


@pytest.fixture(scope="module")
def root() -> Certificate:
    return make("root", ca=True)


@pytest.fixture(scope="module")
def middle(root: Certificate) -> Certificate:
    return root.issue("middle", ca=True)


@pytest.fixture(scope="module")
def leaf(middle: Certificate) -> Certificate:
    return middle.issue("leaf", "mx.test", "*.many.test")


def record(usage: int, selector: int, matching: int, certificate: Certificate) -> Tlsa:
    octets = certificate.spki if selector else certificate.der
    if matching:
        octets = (hashlib.sha256 if matching == 1 else hashlib.sha512)(octets).digest()
    return Tlsa(usage, selector, matching, octets)


def ask(chain: list[Certificate], *records: Tlsa, names: tuple[str, ...] = NAMES, wall: float = DURING) -> str | None:
    return judge([one.der for one in chain], records, names, wall)


# -- records ----------------------------------------------------------------------------------------------------------


def test_parse() -> None:
    assert parse_tlsa(b"\x03\x01\x01" + b"d" * 32) == Tlsa(3, 1, 1, b"d" * 32)
    assert parse_tlsa(b"\x03\x01\x01") is None
    assert parse_tlsa(b"") is None
    assert Tlsa(3, 1, 1, b"\xab").text == "3 1 1 ab"


@pytest.mark.parametrize(
    ("tlsa", "words"),
    [
        (Tlsa(0, 1, 1, b"d" * 32), "usage 0 (PKIX-TA)"),
        (Tlsa(1, 1, 1, b"d" * 32), "usage 1 (PKIX-EE)"),
        (Tlsa(255, 1, 1, b"d" * 32), "usage 255 (unknown)"),
        (Tlsa(3, 2, 1, b"d" * 32), "selector 2"),
        (Tlsa(3, 1, 3, b"d" * 32), "matching type 3"),
        (Tlsa(3, 1, 1, b"d" * 31), "a digest of 31 octets"),
        (Tlsa(3, 1, 2, b"d" * 32), "a digest of 32 octets"),
        (Tlsa(3, 0, 0, b"d" * 32), "a certificate that can't be read"),
        (Tlsa(2, 1, 0, b"d" * 32), "a public key that can't be read"),
    ],
)
def test_unusable(tlsa: Tlsa, words: str) -> None:
    assert words in tlsa.flaw
    assert tlsa.meaning
    assert strongest([tlsa]) == ()


@given(st.binary(max_size=80))
def test_any_record_can_be_read(octets: bytes) -> None:
    tlsa = parse_tlsa(octets)
    if tlsa is not None:
        assert isinstance(tlsa.flaw, str)
        assert tlsa.text
        assert tlsa.meaning
        assert (tlsa in strongest([tlsa])) == (not tlsa.flaw)


def test_of_digests_the_strongest_counts(leaf: Certificate) -> None:
    sha256, sha512, full = (record(3, 1, matching, leaf) for matching in (1, 2, 0))
    other = record(3, 0, 1, leaf)
    assert strongest([sha256, sha512]) == (sha512,)
    assert strongest([sha256, sha512, full]) == (sha512, full)
    assert strongest([sha256, sha512, other]) == (sha512, other)  # another selector: its own strongest
    wrong = Tlsa(3, 1, 2, b"\0" * 64)
    assert ask([leaf], sha256) is None
    assert ask([leaf], sha256, wrong) is not None  # RFC 7671 section 9: the weaker one no longer speaks
    assert ask([leaf], sha256, Tlsa(3, 1, 2, b"\0" * 63)) is None  # an unusable one does not silence it


# -- usage 3 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_own_certificate(leaf: Certificate, middle: Certificate, selector: int, matching: int) -> None:
    tlsa = record(3, selector, matching, leaf)
    assert ask([leaf, middle], tlsa) is None
    assert ask([leaf], tlsa, names=("other.test",), wall=AFTER) is None  # names and dates don't matter
    assert ask([middle, leaf], tlsa) == "its certificate is none of those in its TLSA records"
    assert ask([], tlsa) == "it shows no certificate"


def test_self_signed(leaf: Certificate) -> None:
    own = make("whatever")
    assert ask([own], record(3, 1, 1, leaf), record(3, 1, 1, own)) is None  # a rollover: one of two


# -- usage 2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_named_ca(root: Certificate, middle: Certificate, leaf: Certificate, selector: int, matching: int) -> None:
    for anchor in (root, middle):
        tlsa = record(2, selector, matching, anchor)
        assert ask([leaf, middle, root], tlsa) is None
        assert ask([leaf, root, middle], tlsa) is None  # out of order
        assert ask([leaf, middle, root], tlsa, names=("a.many.test",)) is None
        assert "not for b.test" in str(ask([leaf, middle, root], tlsa, names=("b.test",)))
        assert "is valid from 2026-01-01 to 2027-01-01 only" in str(ask([leaf, middle, root], tlsa, wall=AFTER))
    assert ask([leaf, middle], record(2, selector, matching, make("another", ca=True))) == NONE_NAMED


def test_the_leaf_is_no_ca(leaf: Certificate, middle: Certificate, root: Certificate) -> None:
    assert ask([leaf, middle, root], record(2, 0, 1, leaf)) == NONE_NAMED


def test_a_ca_that_was_not_sent(root: Certificate, middle: Certificate, leaf: Certificate) -> None:
    """A full record is enough (RFC 7671 section 5.2.2), a digest is not."""
    for selector in (0, 1):
        assert ask([leaf], record(2, selector, 0, middle)) is None
        assert ask([leaf, middle], record(2, selector, 0, root)) is None
        assert ask([leaf], record(2, selector, 1, middle)) == NONE_NAMED
        assert ask([leaf], record(2, selector, 0, root)) == NONE_NAMED
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        ca = make("ca", ca=True, key=key)
        assert ask([ca.issue("x", "mx.test")], record(2, 1, 0, ca)) is None
        assert ask([leaf], record(2, 1, 0, ca)) == NONE_NAMED


def test_a_chain_that_does_not_hold(root: Certificate) -> None:
    anchor = record(2, 0, 1, root)
    cases = {
        "not a CA": root.issue("middle"),
        "may not sign": root.issue("middle", ca=True, key_usage=only_signs(certificates=False)),
    }
    for name, middle in cases.items():
        assert ask([middle.issue("leaf", "mx.test"), middle, root], anchor) == NONE_NAMED, name
    signs = root.issue("middle", ca=True, key_usage=only_signs(certificates=True))
    assert ask([signs.issue("leaf", "mx.test"), signs, root], anchor) is None
    forged = make("middle", ca=True)  # of that name, by another key
    real = root.issue("middle", ca=True)
    assert ask([forged.issue("leaf", "mx.test"), real, root], anchor) == NONE_NAMED


def test_path_length() -> None:
    root = make("root", ca=True, path_length=0)
    middle = root.issue("middle", ca=True)
    anchor = record(2, 0, 1, root)
    assert ask([root.issue("leaf", "mx.test"), root], anchor) is None
    assert ask([middle.issue("leaf", "mx.test"), middle, root], anchor) == NONE_NAMED


def test_extended_key_usage(root: Certificate) -> None:
    anchor = record(2, 0, 1, root)
    client = root.issue("leaf", "mx.test", usage=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert ask([client, root], anchor) == "its certificate is not for servers (extended key usage)"
    for usage in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
        assert ask([root.issue("leaf", "mx.test", usage=[usage]), root], anchor) is None


def test_names(root: Certificate, leaf: Certificate) -> None:
    anchor = record(2, 0, 1, root)
    assert presented_names(leaf.certificate) == ["mx.test", "*.many.test"]
    by_common_name = root.issue("MX.test")
    assert ask([by_common_name, root], anchor) is None  # RFC 7672 section 3.2.3: without DNS names
    assert ask([root.issue("mx.test", "other.test"), root], anchor) is not None  # with them it says nothing
    assert ask([root.issue("x", "base.test"), root], anchor, names=("base.test", "mx.test")) is None


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("mx.test", "mx.test", True),
        ("MX.Test.", "mx.test", True),
        ("*.test", "mx.test", True),
        ("*.test", "a.mx.test", False),
        ("*.test", "test", False),
        ("*.test", ".test", False),
        ("m*.test", "mx.test", False),
        ("mx.*", "mx.test", False),
        ("*", "mx.test", False),
        ("*", "*", False),
    ],
)
def test_matching_names(pattern: str, name: str, fits: bool) -> None:
    assert matches_name(pattern, name) is fits


def test_either_kind_is_enough(root: Certificate, leaf: Certificate, middle: Certificate) -> None:
    wrong = Tlsa(3, 1, 1, b"\0" * 32)
    assert ask([leaf, middle, root], wrong, record(2, 0, 1, root)) is None
    assert ask([leaf, middle, root], record(2, 0, 1, make("x", ca=True)), record(3, 1, 1, leaf), wall=AFTER) is None


# -- with a connection ------------------------------------------------------------------------------------------------


def test_check_of_a_connection(tmp_path: Path, leaf: Certificate, middle: Certificate, root: Certificate) -> None:
    chain = [leaf, middle, root]
    (tmp_path / "chain.pem").write_bytes(b"".join(one.pem for one in chain) + leaf.key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with _handshake(client, server) as connection:
        assert peer_chain(connection) == [one.der for one in chain]

        def check(*records: Tlsa) -> str | None:
            return Check(records, NAMES, lambda: DURING)(connection)  # type: ignore[arg-type]

        assert check(record(2, 0, 1, root)) is None
        assert check(record(3, 1, 1, leaf)) is None
        assert check(record(3, 1, 1, root)) is not None
        assert check(Tlsa(2, 0, 0, b"nonsense"), record(3, 1, 1, root)) is not None


def test_check_survives_what_cannot_be_read() -> None:
    class Peer:
        def getpeercert(self, binary: bool) -> bytes:
            return b"no certificate"

    peer: Any = Peer()
    assert "can't be read" in str(Check((Tlsa(3, 1, 1, b"d" * 32),), NAMES, lambda: DURING)(peer))


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLSocket:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as wrapped:
            wrapped.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = client.wrap_socket(ours, server_hostname="mx.test")
    connection.sendall(b".")
    thread.join()
    return connection
