"""The mechanisms of AUTH as machines: the vectors of their RFCs, a client that is plainly right, octets of no sense."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay.ingest.sasl import (
    Challenge,
    CramMd5,
    Login,
    Malformed,
    Password,
    Plain,
    Proven,
    Said,
    ScramKeys,
    ScramSha256,
    Wrong,
    prepared,
    saslprep,
    scram_keys,
)

# RFC 7677 section 3
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SECOND = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
VERIFIER = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def keys_of(name: str) -> ScramKeys:
    return scram_keys("pencil" if name == "user" else f"nobody knows {name}", SALT, 4096)


def scram() -> ScramSha256:
    return ScramSha256(keys_of, SERVER_NONCE)


def octets(said: Said) -> bytes:
    assert isinstance(said, Challenge)
    return said.octets


def test_the_vector_of_rfc_7677() -> None:
    machine = scram()
    assert octets(machine.start(FIRST)) == SECOND
    said = machine.step(FINAL)
    assert isinstance(said, Proven)
    assert (said.name, said.last) == ("user", VERIFIER)


def test_scram_without_an_initial_response_begins_with_an_empty_challenge() -> None:
    machine = scram()
    assert octets(machine.start(None)) == b""
    assert octets(machine.step(FIRST)) == SECOND


def client_final(
    password: str, first: bytes, second: bytes, *, binding: bytes | None = None, extension: bytes = b""
) -> tuple[bytes, bytes]:
    """RFC 5802 section 3 as it is written: the client's final message and the verifier that it expects."""
    header, bare = first[: first.index(b",", first.index(b",") + 1) + 1], first.split(b",", 2)[2]
    fields = dict(part.split(b"=", 1) for part in second.split(b","))
    unproven = b"c=" + base64.b64encode(binding or header) + b",r=" + fields[b"r"] + extension
    message = bare + b"," + second + b"," + unproven
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    stored_key = hashlib.sha256(client_key).digest()
    signature = hmac.new(stored_key, message, hashlib.sha256).digest()
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    verifier = b"v=" + base64.b64encode(hmac.new(server_key, message, hashlib.sha256).digest())
    return unproven + b",p=" + base64.b64encode(proof), verifier


@pytest.mark.parametrize(
    "first",
    [
        b"n,,n=user,r=abc",
        b"y,,n=user,r=abc",
        b"n,a=user,n=user,r=abc",
        b"n,,n=user,r=abc,x=whatever",
    ],
)
def test_a_right_client_is_let_in(first: bytes) -> None:
    machine = scram()
    second = octets(machine.start(first))
    assert second.startswith(b"r=abc" + SERVER_NONCE)
    final, verifier = client_final("pencil", first, second)
    said = machine.step(final)
    assert isinstance(said, Proven)
    assert said.last == verifier


@pytest.mark.parametrize("extension", [b"", b",x=1"])
def test_a_wrong_password_and_an_unknown_user_look_the_same(extension: bytes) -> None:
    for name in (b"user", b"nobody"):
        machine = scram()
        first = b"n,,n=%b,r=abc" % name
        second = octets(machine.start(first))
        final, _ = client_final("pen", first, second, extension=extension)
        assert isinstance(machine.step(final), Wrong)


def test_acting_for_somebody_else_is_refused_with_a_right_password() -> None:
    machine = scram()
    first = b"n,a=admin,n=user,r=abc"
    second = octets(machine.start(first))
    said = machine.step(client_final("pencil", first, second)[0])
    assert isinstance(said, Wrong)


def test_names_are_unescaped() -> None:
    asked: list[str] = []

    def keys(name: str) -> ScramKeys:
        asked.append(name)
        return keys_of("user")

    machine = ScramSha256(keys, b"server")
    first = b"n,,n=a=2Cb=3Dc,r=abc"
    second = octets(machine.start(first))
    assert asked == ["a,b=c"]
    assert isinstance(machine.step(client_final("pencil", first, second)[0]), Proven)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"p=tls-unique,,n=user,r=abc",
        b"n,n=user,r=abc",
        b"x,,n=user,r=abc",
        b"n,,m=ext,n=user,r=abc",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=user",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,a=,n=user,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=a\x07b,r=abc",
        b"n,,n=us\0er,r=abc",
        b"n,,n=" + b"u" * 256 + b",r=abc",
        b"n,,n=user,r=" + b"a" * 513,
        FIRST + b"\n",
    ],
)
def test_a_first_message_that_is_none(first: bytes) -> None:
    assert isinstance(scram().start(first), Malformed)


@pytest.mark.parametrize(
    "final",
    [
        b"",
        FINAL[:-1],
        FINAL.replace(b"c=biws", b"c=eSws"),  # y,, in place of n,,
        FINAL.replace(b"c=biws", b"c=biwsAA=="),
        FINAL.replace(b"rOpr", b"rOpx"),
        FINAL.replace(b"k0,p", b"k,p"),
        FINAL.split(b",p=")[0],
        FINAL.split(b",p=")[0] + b",p=",
        FINAL.split(b",p=")[0] + b",p=AAAA",
        FINAL.split(b",p=")[0] + b",p=A",
        FINAL + b",x=1",
        FINAL + b"\n",
    ],
)
def test_a_final_message_that_is_none(final: bytes) -> None:
    machine = scram()
    machine.start(FIRST)
    assert isinstance(machine.step(final), Malformed)


def test_one_flipped_bit_of_the_proof_is_wrong() -> None:
    head, _, proof = FINAL.partition(b",p=")
    flipped = bytearray(base64.b64decode(proof))
    flipped[7] ^= 1
    machine = scram()
    machine.start(FIRST)
    assert isinstance(machine.step(head + b",p=" + base64.b64encode(flipped)), Wrong)


# -- CRAM-MD5 ---------------------------------------------------------------------------------------------------------

CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"


def cram() -> CramMd5:
    return CramMd5(lambda name: b"tanstaaftanstaaf" if name == "tim" else b"nobody knows", CHALLENGE)


def test_the_vector_of_rfc_2195() -> None:
    machine = cram()
    assert octets(machine.start(None)) == CHALLENGE
    said = machine.step(b"tim b913a602c7eda7a495b4e6e7334d3890")
    assert isinstance(said, Proven)
    assert (said.name, said.last) == ("tim", None)
    assert isinstance(cram().step(b"tim B913A602C7EDA7A495B4E6E7334D3890"), Proven)


@pytest.mark.parametrize("name", [b"tim", b"nobody"])
def test_a_wrong_digest(name: bytes) -> None:
    assert isinstance(cram().step(name + b" b913a602c7eda7a495b4e6e7334d3891"), Wrong)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"tim",
        b"tim ",
        b" b913a602c7eda7a495b4e6e7334d3890",
        b"tim b913a602c7eda7a495b4e6e7334d389",
        b"tim b913a602c7eda7a495b4e6e7334d38900",
        b"tim b913a602c7eda7a495b4e6e7334d3890\n",
        b"t\0im b913a602c7eda7a495b4e6e7334d3890",
        b"\xff b913a602c7eda7a495b4e6e7334d3890",
        b"t" * 256 + b" b913a602c7eda7a495b4e6e7334d3890",
    ],
)
def test_an_answer_to_cram_md5_that_is_none(answer: bytes) -> None:
    assert isinstance(cram().step(answer), Malformed)


def test_cram_md5_has_no_initial_response() -> None:
    assert isinstance(cram().start(b"tim b913a602c7eda7a495b4e6e7334d3890"), Malformed)


# -- PLAIN and LOGIN --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"\0tim\0tanstaaf tanstaaf", b"tim\0tim\0tanstaaf tanstaaf"])
def test_plain(message: bytes) -> None:
    said = Plain().start(message)
    assert isinstance(said, Password)
    assert (said.name, said.password) == ("tim", "tanstaaf tanstaaf")
    later = Plain()
    assert octets(later.start(None)) == b""
    assert isinstance(later.step(message), Password)


def test_plain_is_prepared() -> None:
    said = Plain().start("\0I\u00adX\0\u2168".encode())
    assert isinstance(said, Password)
    assert (said.name, said.password) == ("IX", "IX")


@pytest.mark.parametrize("message", [b"Kurt\0tim\0secret", b"\0tim\0"])
def test_plain_for_somebody_else_or_without_a_password(message: bytes) -> None:
    said = Plain().start(message)
    assert isinstance(said, Wrong)
    assert said.name == "tim"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"tim\0secret",
        b"\0\0secret",
        b"\0tim\0sec\0ret",
        b"\0tim\0\xff",
        b"\0tim\0a\x07",
        b"\0" + b"t" * 256 + b"\0secret",
        b"\0tim\0" + b"s" * 1025,
        b"a" * 256 + b"\0tim\0secret",
    ],
)
def test_plain_that_is_none(message: bytes) -> None:
    assert isinstance(Plain().start(message), Malformed)


def test_login_asks_for_both_unless_the_name_comes_first() -> None:
    machine = Login()
    assert octets(machine.start(None)) == b"Username:"
    assert octets(machine.step(b"tim")) == b"Password:"
    assert isinstance(machine.step(b"secret"), Password)
    machine = Login()
    assert octets(machine.start(b"tim")) == b"Password:"
    said = machine.step(b"secret")
    assert isinstance(said, Password)
    assert (said.name, said.password) == ("tim", "secret")


@pytest.mark.parametrize(("name", "password"), [(b"", b"secret"), (b"tim", b"\xfe"), (b"t" * 256, b"secret")])
def test_login_that_is_none(name: bytes, password: bytes) -> None:
    machine = Login()
    machine.start(name)
    assert isinstance(machine.step(password), Malformed)


# -- any octets -------------------------------------------------------------------------------------------------------

MACHINES: list[Callable[[], Plain | Login | CramMd5 | ScramSha256]] = [Plain, Login, cram, scram]
MESSAGE = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from([b"n", b",", b"=", b"r", b"c", b"p", b"\0", b"a=2C", b" ", FIRST, FINAL, b"y,,"]))
    .map(b"".join)
    .filter(lambda message: len(message) < 2000),
)


@given(st.sampled_from(MACHINES), st.none() | MESSAGE, st.lists(MESSAGE, max_size=4))
def test_no_octets_break_a_machine_or_let_anybody_in(
    make: Callable[[], Plain | Login | CramMd5 | ScramSha256], first: bytes | None, rest: list[bytes]
) -> None:
    machine = make()
    said = machine.start(first)
    for message in rest:
        if not isinstance(said, Challenge):
            break
        said = machine.step(message)
    if isinstance(said, Proven):  # only the RFC's own message can be right
        assert FINAL in rest


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_what_plain_says_is_what_saslprep_makes(name: str, password: str) -> None:
    said = Plain().start(f"\0{name}\0{password}".encode(errors="surrogatepass"))
    if isinstance(said, Password):
        assert said.name == prepared(name.encode())
        assert said.password == prepared(password.encode())


def test_no_repr_tells_a_secret() -> None:
    for secret in (Password("tim", "tanstaaf"), keys_of("user"), scram(), cram(), Proven("tim", VERIFIER)):
        for word in ("tanstaaf", "pencil", "6rriTRBi"):
            assert word not in repr(secret)


# -- SASLprep ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "made"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")],
)
def test_the_examples_of_rfc_4013(text: str, made: str) -> None:
    assert saslprep(text) == made


@pytest.mark.parametrize("text", ["\u0007", "\u06271", "a\u0627", "\ue000", "\ud800", "\u200e", "a\u0000"])
def test_what_rfc_4013_forbids(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC|newer"):
        saslprep(text)


def test_code_points_newer_than_unicode_3_2_may_be_asked_with_and_not_stored() -> None:
    assert prepared("\u0221".encode()) == "\u0221"
    with pytest.raises(ValueError, match="newer"):
        saslprep("\u0221")
