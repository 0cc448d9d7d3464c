"""DKIM-Signature fields for a message (RFC 6376 section 5, RFC 8463).

What it is: which keys fit a From domain and tenant, and the field of each. Everything that does not depend on the
message is made ready once per key. For given keys, content and time the fields are the same each time.

Every key that fits signs. A domain (d=) whose RSA key can't be used now is not signed by Ed25519 alone, which many
providers do not verify: NoKey, and the mail waits. With two RSA keys of a domain, as in a rotation, one of them is
enough.

Known faults: of a From with several addresses the first one's domain decides (DMARC asks no more of senders). Where a
field that may stand once (Cc, Subject) stands twice, both are signed as RFC 6376 has it, and rspamd (3.4) does not
verify that.
"""

from __future__ import annotations

from binascii import b2a_base64

import idna

from fastrelay._core.canon import Fields, SignedNames, canonical_field, finished_field
from fastrelay.config.security import Dkim, DkimKey
from fastrelay.dkim.keys import Keyring, NoKey, PrivateKey, Slot

LINE = 78  # octets of a line of the field, without CRLF (RFC 5322 section 2.1.1)
DOMAINS_CACHED = 4096  # (From domain, tenant) whose keys are known


class Template:
    """What is the same in every signature of a key."""

    __slots__ = ("after_time", "before_time", "slot")

    def __init__(self, slot: Slot, algorithm: str, canonicalization: str, lifetime: bool) -> None:
        self.slot = slot
        one = slot.config
        tags = ["v=1", f"a={algorithm}-sha256", f"c={canonicalization}", f"d={one.domain}", f"s={one.selector}"]
        tags += ["t=0000000000"] + (["x=0000000000"] if lifetime else [])
        text = "DKIM-Signature:"
        column = len(text)
        for tag in tags:
            if column + len(tag) + 2 > LINE:
                text, column = text + "\r\n", 0
            text += f" {tag};"
            column += len(tag) + 2
        before, _, after = text.encode().partition(b"t=0000000000;")
        self.before_time = before + b"t="
        self.after_time = after.removesuffix(b"0000000000;")


class Signer:
    """Signs for one configuration and its keys.

    relaxed_body   whether bodies are hashed in relaxed form: what BodyHash and body_hash want to know
    signatures     how many were made, by algorithm, since drain_counts
    without_key    how often NoKey was raised, since drain_counts
    """

    def __init__(self, keyring: Keyring, config: Dkim) -> None:
        self.keyring = keyring
        self.signatures = {"rsa": 0, "ed25519": 0}
        self.without_key = 0
        header, _, body = config.canonicalization.partition("/")
        self.relaxed_header = header == "relaxed"
        self.relaxed_body = body == "relaxed"
        self._canonicalization = config.canonicalization
        self._lifetime = int(config.lifetime_seconds or 0)
        self._names = SignedNames(
            [name.encode() for name in config.sign_fields], [name.encode() for name in config.oversign_fields]
        )
        self._by_pattern: dict[str, list[Slot]] = {}
        for slot in keyring.slots:
            if slot.config.sign:
                for pattern in patterns(slot.config):
                    self._by_pattern.setdefault(pattern, []).append(slot)
        self._found: dict[tuple[bytes, bytes], tuple[Slot, ...]] = {}
        self._templates: dict[tuple[int, str], Template] = {}

    def wants(self, from_domain: bytes | None, tenant: bytes) -> bool:
        """Whether mail of this From domain and tenant is to be signed."""
        return bool(self.slots(from_domain, tenant))

    def missing(self, from_domain: bytes | None, tenant: bytes) -> str:
        """Why mail of this From domain and tenant can't be signed now; "" where it can, or need not be."""
        try:
            _require(self.slots(from_domain, tenant))
        except NoKey as error:
            return str(error)
        return ""

    def slots(self, from_domain: bytes | None, tenant: bytes) -> tuple[Slot, ...]:
        """The keys that sign it, usable or not."""
        if from_domain is None:
            return ()
        found = self._found.get((from_domain, tenant))
        if found is None:
            if len(self._found) >= DOMAINS_CACHED:
                self._found.clear()
            found = self._found[from_domain, tenant] = self._search(from_domain, tenant)
        return found

    def _search(self, from_domain: bytes, tenant: bytes) -> tuple[Slot, ...]:
        domain = a_labels(from_domain)
        if domain is None:
            return ()
        fitting = {slot.number: slot for slot in self._by_pattern.get(domain, [])}
        above = domain
        while above:
            above = above.partition(".")[2]
            for slot in self._by_pattern.get(f"*.{above}" if above else "*", []):
                fitting[slot.number] = slot
        name = tenant.decode("utf-8", "replace")
        return tuple(
            slot for _, slot in sorted(fitting.items()) if not slot.config.tenants or name in slot.config.tenants
        )

    def sign(
        self, fields: Fields | bytes, body_hash: bytes, from_domain: bytes | None, tenant: bytes, wall: float
    ) -> bytes:
        """The DKIM-Signature fields of a message, each with CRLF; b"" if no key is meant for it. Raises NoKey.

        `fields`: its header block as it will be sent, or parsed. `body_hash`: SHA-256 of its canonical body
        (`relaxed_body`). `wall`: seconds since 1970.
        """
        slots = self.slots(from_domain, tenant)
        if not slots:
            return b""
        keys = [(slot, key) for slot in slots if (key := slot.key) is not None]
        if len(keys) != len(slots):
            try:
                _require(slots)
            except NoKey:
                self.without_key += 1
                raise
        parsed = fields if isinstance(fields, Fields) else Fields(fields)
        names, signed = parsed.signed_input(self._names, self.relaxed_header)
        end = b";\r\n h=%b;\r\n bh=%b; b=" % (names, b2a_base64(body_hash, newline=False))
        time = int(wall)
        if len(keys) == 1:
            return self._field(keys[0][0], keys[0][1], time, end, signed)
        return b"".join([self._field(slot, key, time, end, signed) for slot, key in keys])

    def key_counts(self) -> tuple[int, int]:
        """How many of the keys that sign can be used now, and how many can't."""
        slots = [slot for slot in self.keyring.slots if slot.config.sign]
        usable = sum(slot.key is not None for slot in slots)
        return usable, len(slots) - usable

    def drain_counts(self) -> tuple[dict[str, int], int]:
        """(signatures by algorithm, messages without a key), each since the last call."""
        made, self.signatures = self.signatures, dict.fromkeys(self.signatures, 0)
        without_key, self.without_key = self.without_key, 0
        return made, without_key

    def _field(self, slot: Slot, key: PrivateKey, time: int, end: bytes, signed: bytes) -> bytes:
        template = self._templates.get((slot.number, key.algorithm)) or self._template(slot, key.algorithm)
        if self._lifetime:
            field = b"%b%d;%b%d%b" % (template.before_time, time, template.after_time, time + self._lifetime, end)
        else:
            field = b"%b%d%b" % (template.before_time, time, end)
        self.signatures[key.algorithm] += 1
        return finished_field(field, key.sign(signed + canonical_field(field, self.relaxed_header)))

    def _template(self, slot: Slot, algorithm: str) -> Template:
        template = Template(slot, algorithm, self._canonicalization, bool(self._lifetime))
        self._templates[slot.number, algorithm] = template
        return template


def _require(slots: tuple[Slot, ...]) -> None:
    """Raises NoKey unless every signing domain has what verifiers everywhere take: an RSA key, or all of its keys."""
    proven = {slot.config.domain for slot in slots if slot.key is not None and slot.key.algorithm == "rsa"}
    for slot in slots:
        if slot.key is None and slot.config.domain not in proven:
            raise NoKey(slot.config.domain, slot.config.selector, slot.words)


def patterns(key: DkimKey) -> list[str]:
    """The From domains that a key signs, as patterns."""
    return list(key.senders) or [key.domain, f"*.{key.domain}"]


def a_labels(domain: bytes) -> str | None:
    """A domain of a header in the form that the DNS has; None: it has none."""
    if domain.isascii():
        return domain.decode()
    try:
        return idna.encode(domain.decode("utf-8"), uts46=True).decode()
    except (UnicodeError, idna.IDNAError):
        return None
