"""What a policy in testing mode says of a host, without consequences."""

from __future__ import annotations

import datetime
import ssl
from typing import Any

import pytest
from support.tls_certificates import DURING, END, Certificate, make, only_signs

from fastrelay.tls.pkix import Pkix, TestingCheck


@pytest.fixture(scope="module")
def root() -> Certificate:
    return make("root", ca=True, key_usage=only_signs(certificates=True))


@pytest.fixture(scope="module")
def pkix(root: Certificate) -> Pkix:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root.pem.decode())
    return Pkix(context)


def test_valid(pkix: Pkix, root: Certificate) -> None:
    middle = root.issue("middle", ca=True, key_usage=only_signs(certificates=True))
    leaf = middle.issue("leaf", "mx.test", "*.many.test")
    assert pkix.judge([leaf.der, middle.der], "mx.test", DURING) is None
    assert pkix.judge([leaf.der, middle.der, root.der], "a.many.test", DURING) is None


def test_faults(pkix: Pkix, root: Certificate) -> None:
    leaf = root.issue("leaf", "mx.test")
    after = (END + datetime.timedelta(days=1)).timestamp()
    other = make("other", ca=True, key_usage=only_signs(certificates=True))
    assert "not for other.test" in str(pkix.judge([leaf.der], "other.test", DURING))
    assert "valid until 2027-01-01 only" in str(pkix.judge([leaf.der], "mx.test", after))
    assert "not trusted" in str(pkix.judge([other.issue("leaf", "mx.test").der], "mx.test", DURING))
    assert "not trusted" in str(pkix.judge([make("mx.test", "mx.test").der], "mx.test", DURING))
    assert pkix.judge([], "mx.test", DURING) == "it shows no certificate"
    assert "can't be read" in str(pkix.judge([b"junk"], "mx.test", DURING))


def test_without_cas_nothing_is_judged(root: Certificate) -> None:
    assert Pkix(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).judge([b"junk"], "mx.test", DURING) is None


def test_the_cas_of_the_system() -> None:
    context = ssl.create_default_context()
    if context.get_ca_certs():
        assert "can't be read" in str(Pkix(context).judge([b"junk"], "mx.test", DURING))


def test_check(pkix: Pkix, root: Certificate) -> None:
    leaf = root.issue("leaf", "mx.test")

    class Peer:
        def get_unverified_chain(self) -> list[bytes]:
            return [leaf.der]

    peer: Any = Peer()
    assert TestingCheck(pkix, "mx.test", True, lambda: DURING)(peer) is None
    assert "not for" in str(TestingCheck(pkix, "mx2.test", True, lambda: DURING)(peer))
    assert "does not name mx.test" in str(TestingCheck(pkix, "mx.test", False, lambda: DURING)(peer))
