"""What a DKIM signature costs, beside the bare operation of its key and beside dkimpy. Prints figures; asserts nothing.

    python benchmarks/bench_dkim.py [KIB]

For a message of KIB (10) KiB with twenty fields: SHA-256 of the body, canonical form and hash, header; the bare
private-key operation by OpenSSL, the one that signs (for Ed25519 libsodium's), the whole signature, the same with a key
that does nothing, and what dkimpy takes. CPU time of the process, in µs, the best of several rounds, in which the acts
that are compared take turns; "added" is the whole less the operation that signs.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fastrelay._core.canon import body_hash, parse_fields
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring
from fastrelay.dkim.sign import Signer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dkim

HEADER = (
    b'From: "Example News" <news@news.example>\r\nTo: "A Reader" <reader@mailbox.example>\r\n'
    b"Subject: =?utf-8?Q?What_happened_this_week_in_the_garden_=E2=80=93_and_what_comes_next?=\r\n"
    b"Date: Mon, 23 Nov 2026 18:00:00 +0000\r\nMessage-ID: <20261123180000.1.4711@news.example>\r\n"
    b"Reply-To: editors@news.example\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/alternative;\r\n boundary="=_5f3d7c8a9b"\r\nContent-Transfer-Encoding: 8bit\r\n'
    b"List-Id: The garden <garden.news.example>\r\n"
    b"List-Unsubscribe: <https://news.example/u/k4jd83hfn2ls9>,\r\n <mailto:unsubscribe+k4jd83hfn2ls9@news.example>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nFeedback-ID: c42:t7:news:fastrelay\r\n"
    b"CFBL-Address: complaints@news.example\r\nX-Mailer: newsletter 4.2\r\nPrecedence: bulk\r\n"
    b"Auto-Submitted: auto-generated\r\nX-Campaign: garden-47\r\nX-Priority: 3\r\nErrors-To: bounces@news.example\r\n"
)
HTML_LINE = b'        <td align="left">Some words about tulips and  their bulbs </td>\r\n'
TEXT_LINE = b"Some words about tulips and their bulbs, and how deep to plant them.\r\n"


def body_of(octets: int) -> bytes:
    """Half text, half indented HTML."""
    half = octets // 2
    return TEXT_LINE * (half // len(TEXT_LINE)) + HTML_LINE * (half // len(HTML_LINE))


def cpu_us(act: Callable[[], object], times: int, rounds: int = 7) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(times):
            act()
        best = min(best, (time.process_time() - begun) / times)
    return best * 1e6


def by_turns(acts: dict[str, Callable[[], object]], times: int, rounds: int = 25) -> dict[str, float]:
    """µs of CPU of each act, the best of the rounds."""
    best = dict.fromkeys(acts, float("inf"))
    for _ in range(rounds):
        for name, act in acts.items():
            best[name] = min(best[name], cpu_us(act, times, 1))
    return best


def row(name: str, figure: float, note: str = "") -> None:
    print(f"  {name:<34}{figure:10.1f} µs  {note}")


def measure(name: str, private: RSAPrivateKey | Ed25519PrivateKey, folder: str, content: bytes, times: int) -> None:
    file = os.path.join(folder, name)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with open(file, "wb") as out:
        out.write(pem)
    os.chmod(file, 0o600)
    config = Dkim(keys=[DkimKey(domain="news.example", selector="fr2026", key=file)])
    keyring = Keyring(config)
    if keyring.load():
        print(keyring.problems)
    signer = Signer(keyring, config)
    header = content[: content.index(b"\r\n\r\n") + 2]
    whole_header = len(header) + 2

    def sign() -> bytes:
        fields = parse_fields(header)
        digest = body_hash(content, whole_header, signer.relaxed_body)
        return signer.sign(fields, digest, fields.from_domain(), b"", 1795456878.0)

    padding, algorithm, signed = PKCS1v15(), SHA256(), b"x" * 1400
    key = keyring.slots[0].key
    assert key is not None

    def sign_with_nothing() -> bytes:
        keyring.slots[0].key = idle
        try:
            return sign()
        finally:
            keyring.slots[0].key = key

    idle = dataclasses.replace(key, sign=lambda octets, made=key.sign(signed): made)
    if isinstance(private, RSAPrivateKey):
        pem_for_dkimpy = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        bare = lambda: private.sign(signed, padding, algorithm)  # noqa: E731
    else:
        pem_for_dkimpy = base64.b64encode(private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
        bare = lambda: private.sign(sha256(signed).digest())  # noqa: E731
    acts = {"bare": bare, "own": lambda: key.sign(signed), "whole": sign, "idle": sign_with_nothing}
    took = by_turns(acts, times // 10)
    whole = took["whole"]
    print(name)
    row("bare private-key operation", took["bare"], "OpenSSL, by cryptography")
    row("the operation that signs", took["own"])
    bound = f"1.15 x bare + 25 is {1.15 * took['bare'] + 25:.1f}" if name == "rsa" else "the bound for all is 50"
    row("whole signature", whole, f"added {whole - took['own']:.1f} µs; {bound}")
    row("  with a key that does nothing", took["idle"])
    fields = header.split(b"\r\n")
    names = [line.split(b":")[0].lower() for line in fields if line and line[:1] != b" "][:14]

    def sign_with_dkimpy() -> bytes:
        return dkim.DKIM(content, signature_algorithm=name.encode() + b"-sha256").sign(
            b"fr2026", b"news.example", pem_for_dkimpy, canonicalize=(b"relaxed", b"relaxed"), include_headers=names
        )

    slow = cpu_us(sign_with_dkimpy, max(times // 50, 5), 3)
    row("dkimpy", slow, f"{slow / whole:.0f} times ours")


def main() -> None:
    kib = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    body = body_of(int(kib * 1024))
    content = HEADER + b"\r\n" + body
    header_length = len(HEADER) + 2
    print(f"content of {len(content)} octets, {HEADER.count(b': ')} fields")
    row("SHA-256 of the body alone", cpu_us(lambda: sha256(body).digest(), 2000))
    for relaxed in (True, False):
        kind = "relaxed" if relaxed else "simple"
        row(f"{kind} body: form and hash", cpu_us(lambda r=relaxed: body_hash(content, header_length, r), 2000))  # type: ignore[misc]
    row("header: fields parsed", cpu_us(lambda: parse_fields(HEADER), 2000))
    row("header: domain of From", cpu_us(parse_fields(HEADER).from_domain, 2000))
    with tempfile.TemporaryDirectory() as folder:
        measure("rsa", generate_private_key(65537, 2048), folder, content, 300)
        measure("ed25519", Ed25519PrivateKey.generate(), folder, content, 1000)


if __name__ == "__main__":
    main()
