"""Bounces without a machine-readable report: formats as data (config/defaults/bounces.yaml), found by their words.

All expressions are RE2's, so that no text makes them slow, and see a bounded part of the text. An address counts only
where it is a plausible one, and is neither our own sender nor where the bounce comes from; but at a place where
a format has recipients alone (exact), whoever stands there is one if nobody else does.

A format's own words make a message a bounce. Words that people use, too, count only from a mail system, or below a
bounce's subject in a message that speaks of mail; there, links, quoted headers and whom to ask are left out first.

Known faults: a form that nobody described is read by words that many have in common, or by flufl.bounce, or not at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any, Literal

import msgspec
import re2  # type: ignore[import-untyped]
import yaml

from fastrelay.feedback.bounce_types import BouncedRecipient, as_reported, plausible
from fastrelay.feedback.classes import ReplyClass, parse_reply

MAX_TEXT = 32 << 10  # octets of a text that are looked at
MAX_ADDRESSES = 100  # of one message
MAX_DIAGNOSTIC = 1000
NEVER = frozenset(
    {"mailer-daemon", "mailerdaemon", "mail-daemon", "maildaemon", "postmaster", "mdaemon", "daemon", "noreply",
     "no-reply", "donotreply", "do-not-reply", "mailer_daemon", "mail.daemon", "postmaster1", "abuse", "nobody",
     "helpdesk", "servicedesk", "hotline", "name", "yourname", "your.name", "your_name"}
)  # fmt: skip
DAEMONS = frozenset({"mailer-daemon", "mailerdaemon", "mail-daemon", "maildaemon", "mdaemon", "mailer_daemon"})
_ATEXT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_.")
ADDRESS = r"""(?:"[^"\n]{1,64}"|[^\s<>()\[\]",;:@\\|]{1,128})@(?:[^\s<>()\[\]"',;:@=\\|!?*]{1,255})"""


SPOKEN = re.compile("[\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]")  # Han, kana, hangul and their punctuation


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A format of bounces; bounces.yaml explains the fields."""

    name: str
    when: str
    address: list[str]
    source: str
    start: str | None = None
    stop: str | None = None
    action: str = "failed"
    words: Literal["own", "common"] = "common"
    exact: bool = False
    domain: str | None = None
    copy: Literal["", "any", "named"] = ""


class Reading(msgspec.Struct):
    """What the forms found: the form that gave the recipients, or the first one of a system's own words that fits."""

    form: Form | None = None
    recipients: list[BouncedRecipient] = []


class LooksLike(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a message is that is no bounce, by its subject or text."""

    what: str
    source: str
    subject: str | None = None
    text: str | None = None


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What words mean where no code stands."""

    means: ReplyClass
    text: str
    source: str


class FormsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    subjects: list[str]
    senders: list[str]
    quiet: list[str]
    forms: list[Form]
    original: list[str]
    kinds: list[LooksLike]
    reasons: list[Reason]


def options(*, set_of: bool = False) -> Any:
    """Either case, ^ and $ at line ends, linear time within bounded memory."""
    made = re2.Options()
    made.case_sensitive = False
    made.log_errors = False
    made.max_mem = 64 << 20
    made.never_capture = set_of
    return made


def compiled(expression: str) -> Any:
    return re2.compile(("(?m)" + expression.replace("{addr}", ADDRESS)).encode(), options())


def set_of(expressions: Iterable[str]) -> Any:
    """Expressions that are asked in one pass; Match() gives the numbers of those that fit."""
    made = re2.Set.SearchSet(options(set_of=True))
    for expression in expressions:
        made.Add(("(?m)" + expression.replace("{addr}", ADDRESS)).encode())
    made.Compile()
    return made


class _Form:
    def __init__(self, form: Form) -> None:
        self.form = form
        self.start = compiled(form.start) if form.start else None
        self.stop = compiled(form.stop) if form.stop else None
        self.address = [compiled(expression) for expression in form.address]


class Forms:
    """The formats, ready to be asked."""

    def __init__(self, file: FormsFile) -> None:
        self.forms = [_Form(form) for form in file.forms]
        self._set = set_of(form.when for form in file.forms)
        self._originals = [compiled(expression) for expression in file.original]
        self._original_set = set_of(file.original)
        self._bouncy = compiled("|".join(f"(?:{each})" for each in file.subjects))
        self._senders = compiled("|".join(f"(?:{each})" for each in file.senders))
        self._quiet = [compiled(expression) for expression in file.quiet]
        self._subjects = [each.what for each in file.kinds if each.subject]
        self._subject_set = set_of(each.subject for each in file.kinds if each.subject)
        self._texts = [each.what for each in file.kinds if each.text]
        self._text_set = set_of(each.text for each in file.kinds if each.text)
        self._reasons = [each.means for each in file.reasons]
        self._reason_set = set_of(each.text for each in file.reasons)

    def reason(self, words: str) -> ReplyClass | None:
        """The class that words without a code mean."""
        places = self._reason_set.Match(words.encode("utf-8", "replace")[:MAX_DIAGNOSTIC])
        return self._reasons[min(places)] if places else None

    def split(self, text: bytes) -> tuple[bytes, bytes]:
        """A text and the copy of our message in it."""
        at = len(text)
        for number in self._original_set.Match(text) or ():
            found = self._originals[number].search(text[:at])
            if found is not None and found.start() < at:
                at = found.start()
        return text[:at], text[at:]

    def looks_like(self, subject: str, text: bytes) -> str:
        """auto_reply, challenge or subscription by subject or text; "" for neither."""
        if subject and (places := self._subject_set.Match(subject.encode("utf-8", "replace")[:1000])):
            return self._subjects[min(places)]
        if text and (places := self._text_set.Match(text[:8192])):
            return self._texts[min(places)]
        return ""

    def bouncy(self, subject: str) -> bool:
        """Whether a subject is that of a bounce."""
        return self._bouncy.search(subject.encode("utf-8", "replace")[:1000]) is not None

    def is_system(self, sender: str) -> bool:
        """Whether a From: is that of a mail system."""
        return self._senders.search(sender.encode("utf-8", "replace")[:500]) is not None

    def read(self, probe: bytes, text: bytes, never: frozenset[str], *, common: bool) -> Reading:
        """What the first form says that fits and finds a recipient.

        probe   what shows the form: subject, sender and the text
        text    what stands before the copy of our message
        never   addresses (lower case) that are no recipient: our sender's, the daemon's
        common  whether forms count whose words people use, too
        """
        text = text[:MAX_TEXT]
        quiet: bytes | None = None
        unread: Form | None = None
        for at in sorted(self._set.Match(probe[: MAX_TEXT + 2048]) or ()):
            form = self.forms[at]
            if form.form.words == "own":
                found = self._recipients(form, text, never)
                unread = unread or form.form
            elif common:
                if quiet is None:
                    quiet = self._without_quiet(text)
                found = self._recipients(form, quiet, never)
            else:
                continue
            if found:
                return Reading(form.form, found)
        return Reading(unread)

    def _without_quiet(self, text: bytes) -> bytes:
        """A text without what names addresses that are no recipient."""
        for expression in self._quiet:
            text = expression.sub(b" ", text)
        return text

    def _recipients(self, form: _Form, text: bytes, never: frozenset[str]) -> list[BouncedRecipient]:
        uncut = text
        start = 0
        if form.start is not None:
            begin = form.start.search(text)
            if begin is None:
                return []
            start = begin.end()
        if form.stop is not None and (stop := form.stop.search(text[start:])) is not None:
            text = text[: start + stop.start()]
        found = self._addresses(form, text, start, never)
        if not found and form.form.exact:
            found = self._addresses(form, text, start, DAEMONS)
        return _with_diagnostics(found, text, uncut, form.form.action) if found else []

    def _addresses(self, form: _Form, text: bytes, start: int, never: frozenset[str]) -> list[tuple[int, int, str]]:
        """Where the addresses of a form stand, and which they are; by the first expression that gives any."""
        domain = form.form.domain
        for expression in form.address:
            found: list[tuple[int, int, str]] = []
            seen: set[str] = set()
            for match in expression.finditer(text[start:]):
                address = _address_in(match)
                if domain and "@" not in address:
                    address = f"{address}@{domain}"
                folded = address.lower()
                if never is DAEMONS:  # an exact place, where nobody else stands
                    fine = folded.partition("@")[0] not in DAEMONS and (plausible(address) or as_reported(address))
                else:
                    fine = allowed(folded, never) and plausible(address)
                if folded not in seen and fine:
                    seen.add(folded)
                    found.append((start + match.start(), start + match.end(), address))
                if len(found) >= MAX_ADDRESSES:
                    break
            if found:
                return found
        return []


def _address_in(match: Any) -> str:
    """The address of a match: the last group that has one, which is the address before forwarding."""
    last = max((number for number, group in enumerate(match.groups(), 1) if group), default=0)
    if not last:
        return ""
    octets, at = match.string, match.start(last)
    while at > 0 and octets[at - 1] in _ATEXT and match.end(last) - at < 320:  # began in the middle of a local part
        at -= 1
    text = octets[at : match.end(last)].decode("utf-8", "replace")
    return cleaned(text)


def cleaned(text: str) -> str:
    """An address without what touches it: quotes, and words of languages that put no space between words."""
    text = text.strip(" .'`*_=").removeprefix("mailto:").removeprefix("smtp:").removeprefix("SMTP:")
    if text.isascii():
        return text
    local, at, domain = text.rpartition("@")
    spoken = [place.end() for place in SPOKEN.finditer(local)]
    if spoken and local[spoken[-1] :].isascii() and local[spoken[-1] :]:
        local = local[spoken[-1] :]
    if (place := SPOKEN.search(domain)) is not None and place.start() and domain[place.start() - 1].isalnum():
        domain = domain[: place.start()]
    return (local + at + domain).strip(" .'`*")


def allowed(address: str, never: Iterable[str]) -> bool:
    """Whether an address may be a recipient: nobody's daemon, and not ours."""
    folded = address.lower()
    return folded not in never and folded.partition("@")[0] not in NEVER


def _with_diagnostics(
    found: list[tuple[int, int, str]], text: bytes, uncut: bytes, action: str
) -> list[BouncedRecipient]:
    """Recipients with the words that follow each address, up to the next one."""
    recipients = []
    whole = uncut.decode("utf-8", "replace")
    for number, (_, end, address) in enumerate(found):
        after = found[number + 1][0] if number + 1 < len(found) else len(text)
        words = _words(text[end:after].decode("utf-8", "replace"))
        code, status = reply_in(words)
        if not code and not status and len(found) == 1:  # elsewhere in the text, where it can only mean this one
            code, status = reply_in(_reply_line(whole))
            words = _words(_reply_line(whole)) if code or status else told(whole, address, words)
        recipients.append(BouncedRecipient(address=address, action=action, status=status, code=code, diagnostic=words))
    return recipients


_IP = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_PARAGRAPHS = re.compile(r"\n[ \t>|*=-]*\n")
_REPLY_LINE = re2.compile(
    rb"(?m)^[^\n]*?(?:\b[45][0-5]\d[ -](?:#?[45]\.\d{1,3}\.\d{1,3}|[A-Za-z<])|\(?#[45]\.\d{1,3}\.\d{1,3})"
    rb"[^\n]*(?:\n[ \t]+[^\n]+)?",
    options(),
)


def _reply_line(text: str) -> str:
    found = _REPLY_LINE.search(text.encode("utf-8", "replace")[:MAX_TEXT])
    return found[0].decode("utf-8", "replace") if found is not None else ""


def reply_in(text: str) -> tuple[int, str]:
    """The codes of a reply in a text of any kind, where numbers stand for much else: (0, "") for none."""
    code, status = parse_reply(_IP.sub("", text))
    return (code if 400 <= code < 600 else 0), (status if status[:1] in ("4", "5") else "")


def told(text: str, address: str, after: str) -> str:
    """Why somebody was not reached, where no code says it: the first words that mean something, nearest first."""
    forms = built_in_forms()
    if after and forms.reason(after) is not None:
        return after
    paragraphs = [" ".join(each.split()) for each in _PARAGRAPHS.split(text[:MAX_TEXT])[:100]]
    holder = next((at for at, each in enumerate(paragraphs) if address.lower() in each.lower()), 0)
    nearest = [holder, *range(holder + 1, len(paragraphs)), *range(holder - 1, -1, -1)][:12]
    for at in nearest:
        if forms.reason(paragraphs[at]) is not None:
            return paragraphs[at][:MAX_DIAGNOSTIC]
    return after or (paragraphs[holder][:400] if paragraphs else "")


def _words(text: str) -> str:
    """The first paragraph that says something, on one line."""
    lines: list[str] = []
    for line in text.split("\n")[:40]:
        line = line.strip().strip(">").strip()
        if line.strip(":;-=* "):
            lines.append(line.lstrip(": "))
        elif lines:
            break
    return " ".join(lines)[:MAX_DIAGNOSTIC]


@functools.cache
def forms_file() -> FormsFile:
    """The built-in file."""
    text = resources.files("fastrelay.config").joinpath("defaults/bounces.yaml").read_text(encoding="utf-8")
    return msgspec.convert(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), FormsFile)


@functools.cache
def built_in_forms() -> Forms:
    """The built-in formats, ready to be asked."""
    return Forms(forms_file())
