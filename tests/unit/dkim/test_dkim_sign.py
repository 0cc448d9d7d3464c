"""Signatures: the same as dkimpy's octet for octet, verified by it, by the right keys, in the right form."""

from __future__ import annotations

import base64
import itertools
import re
import time
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.dkim_keys import ed25519_key, key_file, one_key, pem, records_of, rsa_key, signer_for, verdicts

from fastrelay._core.canon import body_hash, parse_fields
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring, NoKey
from fastrelay.dkim.sign import Signer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dkim

FORMS = ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"]
WALL = 1795456878.9
HEADER = (
    b'From: "Example News" <news@news.example>\r\nTo: reader@mailbox.example\r\nSubject: Tulips \r\n  and bulbs\r\n'
    b"Date: Mon, 23 Nov 2026 18:00:00 +0000\r\nMessage-ID: <1@news.example>\r\nX-Job: 7\r\n"
    b"List-Unsubscribe: <https://news.example/u/1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
)
BODY = b"Some  words \r\n\r\nabout tulips\t\r\n\r\n\r\n"


def signed(
    signer: Signer, header: bytes = HEADER, body: bytes = BODY, wall: float = WALL, tenant: bytes = b""
) -> bytes:
    fields = parse_fields(header)
    content = header + b"\r\n" + body
    digest = body_hash(content, len(header) + 2, signer.relaxed_body)
    return signer.sign(fields, digest, fields.from_domain(), tenant, wall)


def signatures(fields: bytes) -> list[bytes]:
    """The DKIM-Signature fields, each without CRLF."""
    return [field.removesuffix(b"\r\n") for field in re.split(rb"(?m)^(?=DKIM-Signature:)", fields) if field]


def tags(field: bytes) -> dict[str, str]:
    text = re.sub(r"\s", "", field.decode().partition(":")[2])
    return dict(tag.split("=", 1) for tag in text.split(";"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Signer]:
    """One for each algorithm and form."""
    folder = tmp_path_factory.mktemp("keys")
    keys = {"rsa": one_key(folder, rsa_key(), "r"), "ed25519": one_key(folder, ed25519_key(), "e")}
    made = itertools.product(keys, FORMS)
    return {(kind, form): signer_for(Dkim(keys=[keys[kind]], canonicalization=form)) for kind, form in made}  # type: ignore[arg-type]


# -- against dkimpy ---------------------------------------------------------------------------------------------------

names = st.sampled_from([b"To", b"Subject", b"DATE", b"X-Job", b"List-Unsubscribe", b"Reply-To", b"Content-Type"])
words = st.sampled_from([b"a", b"Some longer text", b" ", b"  ", b"\t", b"\r\n ", b":", b";", b"\xc3\xa9", b"b=c"])
# (dkimpy alone takes form feeds for white space, and a line of white space for the end of a header)
values = st.lists(words, max_size=10).map(lambda parts: b" x" + b"".join(parts) + b"x")
headers = st.lists(st.tuples(names, values), max_size=8)
bodies = st.lists(st.sampled_from([b"a", b"words and more", b" ", b"\t", b"\r\n", b" \r\n", b"\xff"]), max_size=30)


def signature_of_dkimpy(field: bytes, content: bytes, kind: str, form: str) -> bytes:
    """What dkimpy puts into b= for the same tags, in the lines that we wrote (it would fold in other places)."""
    value = field.partition(b": v=")[2]
    value = value[: value.rindex(b"; b=")]
    names_of_h = [name.strip().lower() for name in tags(field)["h"].encode().split(b":")]
    private = rsa_key() if kind == "rsa" else ed25519_key()
    signer = dkim.DKIM(content, signature_algorithm=kind.encode() + b"-sha256")
    if kind == "rsa":
        key = dkim.parse_pem_private_key(pem(private, PrivateFormat.TraditionalOpenSSL))
    else:
        raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        key = dkim.nacl.signing.SigningKey(base64.b64encode(raw), encoder=dkim.nacl.encoding.Base64Encoder)
    signer.hasher = dkim.HASH_ALGORITHMS[signer.signature_algorithm]
    policy = dkim.CanonicalizationPolicy.from_c_value(form.encode())
    made = signer.gen_header([(b"v", value), (b"b", b"")], names_of_h, policy, b"DKIM-Signature", key)
    return re.sub(rb"\s", b"", made[made.rindex(b"; b=") + 4 :])


@pytest.fixture
def unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """dkimpy leaves our lines as they are."""
    monkeypatch.setattr(dkim, "fold", lambda header, **how: header)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@given(fields=headers, parts=bodies)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_signature_is_that_of_dkimpy(
    kind: str,
    form: str,
    fields: list[tuple[bytes, bytes]],
    parts: list[bytes],
    signers: dict[tuple[str, str], Signer],
    unfolded: None,
) -> None:
    header = b"From: a@news.example\r\n" + b"".join(name + b":" + value + b"\r\n" for name, value in fields)
    body = b"".join([*parts, b"\r\n"])
    content = header + b"\r\n" + body
    made = signed(signers[kind, form], header, body).removesuffix(b"\r\n")
    about = tags(made)
    assert about["b"].encode() == signature_of_dkimpy(made, content, kind, form)
    policy = dkim.CanonicalizationPolicy.from_c_value(form.encode())
    digest = dkim.HASH_ALGORITHMS[b"rsa-sha256"](policy.canonicalize_body(body)).digest()
    assert about["bh"].encode() == base64.b64encode(digest)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_dkimpy_verifies(kind: str, form: str, signers: dict[tuple[str, str], Signer]) -> None:
    signer = signers[kind, form]
    fields = signed(signer, wall=time.time())
    content = HEADER + b"\r\n" + BODY
    assert verdicts(fields + content, records_of(signer), 1) == [True]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b"Subject: Tulips", b"Subject: Roses"),
        lambda content: content.replace(b"List-Unsubscribe: <https://news.example/u/1>\r\n", b""),
        lambda content: b"Reply-To: else@where.example\r\n" + content,  # oversigned, and there was none
        lambda content: b"Subject: Roses\r\n" + content,  # oversigned: nobody adds a second one
        lambda content: b"From: else@where.example\r\n" + content,
    ],
    ids=["subject", "unsubscribe", "reply-to added", "subject added", "from added"],
)
def test_what_was_changed_does_not_verify(change, signers: dict[tuple[str, str], Signer]) -> None:
    signer = signers["rsa", "relaxed/relaxed"]
    fields = signed(signer, wall=time.time())
    content = HEADER + b"\r\n" + BODY
    assert verdicts(fields + content, records_of(signer), 1) == [True]
    assert verdicts(fields + change(content), records_of(signer), 1) == [False]


def test_a_changed_body_does_not_verify(signers: dict[tuple[str, str], Signer]) -> None:
    signer = signers["rsa", "relaxed/relaxed"]
    content = HEADER + b"\r\n" + BODY.replace(b"tulips", b"roses")
    with pytest.raises(dkim.ValidationError, match="body hash"):
        verdicts(signed(signer, wall=time.time()) + content, records_of(signer), 1)


# -- what a field looks like ------------------------------------------------------------------------------------------


def test_the_field(signers: dict[tuple[str, str], Signer]) -> None:
    made = signed(signers["rsa", "relaxed/relaxed"])
    about = tags(made.removesuffix(b"\r\n"))
    assert list(about) == ["v", "a", "c", "d", "s", "t", "h", "bh", "b"]
    assert (about["v"], about["a"], about["c"]) == ("1", "rsa-sha256", "relaxed/relaxed")
    assert (about["d"], about["s"], about["t"]) == ("news.example", "r", "1795456878")
    assert about["h"] == (
        "From:From:Reply-To:To:To:Subject:Subject:Date:Date:Message-ID:Message-ID:"
        "Content-Type:List-Unsubscribe:List-Unsubscribe-Post"
    )
    assert all(len(line) <= 78 for line in made.split(b"\r\n"))
    assert all(line[:1] == b" " for line in made.split(b"\r\n")[1:-1])
    assert made.endswith(b"\r\n")
    assert b"l=" not in made
    assert b"i=" not in made


def test_the_same_message_at_the_same_time_has_the_same_signature(signers: dict[tuple[str, str], Signer]) -> None:
    for signer in signers.values():
        assert signed(signer) == signed(signer)
        assert signed(signer, wall=WALL + 1) != signed(signer)


def test_the_header_may_be_given_as_octets(signers: dict[tuple[str, str], Signer]) -> None:
    signer = signers["rsa", "relaxed/relaxed"]
    digest = body_hash(BODY, 0, True)
    assert signer.sign(HEADER, digest, b"news.example", b"", WALL) == signed(signer)
    assert signer.sign(HEADER + b"\r\n" + BODY, digest, b"news.example", b"", WALL) == signed(signer)


def test_a_lifetime(folder: Path) -> None:
    signer = signer_for(Dkim(keys=[one_key(folder, rsa_key())], lifetime_seconds=86400.0))
    about = tags(signed(signer).removesuffix(b"\r\n"))
    assert int(about["x"]) == int(about["t"]) + 86400
    now = signed(signer, wall=time.time())
    assert verdicts(now + HEADER + b"\r\n" + BODY, records_of(signer), 1) == [True]


def test_a_long_domain_is_put_on_a_line_of_its_own(folder: Path) -> None:
    domain = ".".join(["a" * 60, "b" * 60, "c" * 60, "example"])
    signer = signer_for(Dkim(keys=[one_key(folder, ed25519_key(), "s" * 63, domain)], lifetime_seconds=60.0))
    made = signer.sign(
        HEADER.replace(b"news@news.example", b"a@" + domain.encode()), bytes(32), domain.encode(), b"", WALL
    )
    assert tags(made.removesuffix(b"\r\n"))["d"] == domain
    too_long = [line for line in made.split(b"\r\n") if len(line) > 78]
    assert too_long == [b" d=" + domain.encode() + b";"]


def test_fields_are_chosen_by_the_configuration(folder: Path) -> None:
    config = Dkim(keys=[one_key(folder, rsa_key())], sign_fields=["From", "X-Job"], oversign_fields=["x-job"])
    assert tags(signed(signer_for(config)).removesuffix(b"\r\n"))["h"] == "From:X-Job:X-Job"


# -- who signs --------------------------------------------------------------------------------------------------------


def test_two_algorithms_sign_a_message_twice(folder: Path) -> None:
    signer = signer_for(Dkim(keys=[one_key(folder, rsa_key(), "r"), one_key(folder, ed25519_key(), "e")]))
    fields = signed(signer, wall=time.time())
    assert [tags(field)["a"] for field in signatures(fields)] == ["rsa-sha256", "ed25519-sha256"]
    assert verdicts(fields + HEADER + b"\r\n" + BODY, records_of(signer), 2) == [True, True]
    assert signer.signatures == {"rsa": 1, "ed25519": 1}


def selectors(signer: Signer, domain: bytes | None, tenant: bytes = b"") -> list[str]:
    return [slot.config.selector for slot in signer.slots(domain, tenant)]


def test_keys_by_from_domain(folder: Path) -> None:
    file = key_file(folder, "key", ed25519_key())
    signer = Signer(
        Keyring(
            Dkim(
                keys=[
                    DkimKey(domain="news.example", selector="own", key=file),
                    DkimKey(domain="esp.example", selector="all", key=file, senders=["*"]),
                    DkimKey(domain="shop.example", selector="sub", key=file, senders=["*.shop.example"]),
                    DkimKey(
                        domain="shop.example", selector="two", key=file, senders=["shop.example", "x.shop.example"]
                    ),
                    DkimKey(domain="news.example", selector="old", key=file, sign=False),
                ]
            )
        ),
        Dkim(),
    )
    assert selectors(signer, b"news.example") == ["own", "all"]
    assert selectors(signer, b"a.b.news.example") == ["own", "all"]
    assert selectors(signer, b"fakenews.example") == ["all"]
    assert selectors(signer, b"shop.example") == ["all", "two"]
    assert selectors(signer, b"x.shop.example") == ["all", "sub", "two"]
    assert selectors(signer, None) == []
    assert signer.wants(b"anything.example", b"")
    assert not signer.wants(None, b"")


def test_keys_by_tenant(folder: Path) -> None:
    file = key_file(folder, "key", ed25519_key())
    keys = [
        DkimKey(domain="news.example", selector="any", key=file),
        DkimKey(domain="news.example", selector="of-a", key=file, tenants=["a", "b c"]),
    ]
    signer = Signer(Keyring(Dkim(keys=keys)), Dkim())
    assert selectors(signer, b"news.example", b"a") == ["any", "of-a"]
    assert selectors(signer, b"news.example", b"b c") == ["any", "of-a"]
    assert selectors(signer, b"news.example", b"other") == ["any"]
    assert selectors(signer, b"news.example") == ["any"]


def test_a_domain_in_other_letters_is_found_by_its_a_labels(folder: Path) -> None:
    key = one_key(folder, rsa_key(), domain="xn--bcher-kva.example")
    signer = signer_for(Dkim(keys=[key]))
    header = HEADER.replace(b"news@news.example", "bücher@BÜCHER.example".encode())
    assert tags(signed(signer, header).removesuffix(b"\r\n"))["d"] == "xn--bcher-kva.example"
    assert not signer.wants(b"\xff.example", b"")
    assert not signer.wants("a..ü".encode(), b"")


def test_mail_of_other_domains_is_not_signed(signers: dict[tuple[str, str], Signer]) -> None:
    signer = signers["rsa", "relaxed/relaxed"]
    for header in (
        HEADER.replace(b"news.example", b"other.example"),
        b"To: a@b\r\n",
        HEADER + b"From: b@news.example\r\n",
    ):
        assert signed(signer, header) == b""


def test_the_cache_of_domains_is_bounded(folder: Path) -> None:
    signer = signer_for(Dkim(keys=[one_key(folder, ed25519_key())]))
    for number in range(10_000):
        signer.slots(b"%d.example" % number, b"")
    assert len(signer._found) <= 4096
    assert selectors(signer, b"news.example") == ["s1"]


# -- keys that can't be used ------------------------------------------------------------------------------------------


def lame(folder: Path, selector: str, domain: str = "news.example") -> DkimKey:
    return DkimKey(domain=domain, selector=selector, key=str(folder / "missing.pem"))


def keyless(*keys: DkimKey) -> Signer:
    keyring = Keyring(Dkim(keys=list(keys)))
    keyring.load()
    return Signer(keyring, Dkim())


def test_without_its_key_mail_is_not_signed(folder: Path) -> None:
    with pytest.raises(
        NoKey, match=r"s1\._domainkey\.news\.example can't be used: .*missing\.pem cannot be read"
    ) as found:
        signed(keyless(lame(folder, "s1")))
    assert (found.value.domain, found.value.selector) == ("news.example", "s1")


def test_one_of_two_keys_of_a_rotation_is_enough(folder: Path) -> None:
    signer = keyless(lame(folder, "s1"), one_key(folder, rsa_key(), "s2"))
    assert [tags(field)["s"] for field in signatures(signed(signer))] == ["s2"]


def test_ed25519_alone_is_not_enough_where_an_rsa_key_is_wanting(folder: Path) -> None:
    with pytest.raises(NoKey):
        signed(keyless(lame(folder, "s1"), one_key(folder, ed25519_key(), "e")))
    assert signed(keyless(one_key(folder, ed25519_key(), "e")))


def test_each_signing_domain_needs_a_key(folder: Path) -> None:
    other = DkimKey(domain="esp.example", selector="all", key=key_file(folder, "esp", rsa_key()), senders=["*"])
    with pytest.raises(NoKey, match="news"):
        signed(keyless(other, lame(folder, "s1")))


def test_a_key_that_does_not_sign_may_be_missing(folder: Path) -> None:
    old = DkimKey(domain="news.example", selector="old", key=str(folder / "missing.pem"), sign=False)
    assert signed(keyless(old, one_key(folder, rsa_key())))
