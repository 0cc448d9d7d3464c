"""The pages behind an unsubscribe link: built in, or files of the operator's.

They work without JavaScript, cookies and anything from elsewhere, on a phone and in the dark. In a page of the
operator's, {form} is the form with the button, and {recipient} the address, masked; both are there once it was done as
well ({form} is empty then).
"""

from __future__ import annotations

import html
from typing import Literal

MAX_PAGE_OCTETS = 1 << 20
Page = Literal["ask", "done", "unknown", "unusable", "empty", "busy", "large", "failed", "method", "nothing"]

FORM = """<form method="post" action="">
<input type="hidden" name="unsubscribe" value="page">
<button type="submit">Unsubscribe</button>
</form>"""

_STYLE = """:root{color-scheme:light dark;--ink:#1c2430;--soft:#556070;--back:#f3f5f8;--card:#fff;--line:#dfe4ea;
--main:#1f5fbf;--on:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf2;--soft:#a3adba;--back:#12161c;--card:#1b2129;--line:#2d3540;
--main:#6ea8ff;--on:#0b1420}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;align-items:center;justify-content:center;padding:1.25rem;
background:var(--back);color:var(--ink);font:1.0625rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{width:100%;max-width:27rem;background:var(--card);border:1px solid var(--line);border-radius:.9rem;
padding:2rem 1.5rem;text-align:center}
h1{margin:0 0 .75rem;font-size:1.45rem;line-height:1.25}
p{margin:0 0 1rem;color:var(--soft);overflow-wrap:anywhere}
p b{color:var(--ink)}
form{margin:1.5rem 0 0}
button{width:100%;min-height:3rem;border:0;border-radius:.6rem;padding:.75rem 1rem;background:var(--main);
color:var(--on);font:inherit;font-weight:600;cursor:pointer}
button:hover{filter:brightness(1.08)}
button:focus-visible{outline:3px solid var(--ink);outline-offset:2px}
main>:last-child{margin-bottom:0}"""

_WORDS: dict[Page, tuple[str, str]] = {
    "ask": ("Unsubscribe?", "No more of this mail{sender} will be sent to <b>{recipient}</b>."),
    "done": ("You are unsubscribed", "No more of this mail{sender} will be sent to <b>{recipient}</b>."),
    "unknown": (
        "This link is not complete",
        "Please open it from the mail again, or copy all of it. Nothing was changed.",
    ),
    "unusable": (
        "This link does not say who you are",
        "It was in a mail to several people. Please answer that mail, and ask to be removed. Nothing was changed.",
    ),
    "empty": ("Nothing was changed", "Please open the link again and use the button."),
    "busy": ("Too many requests", "Please try again in a minute. Nothing was changed."),
    "large": ("Nothing was changed", "What your program sent is too large. Please open the link in a browser."),
    "failed": (
        "That did not work",
        "Your request could not be kept, so please try again in a few minutes. Nothing was changed yet.",
    ),
    "method": ("Nothing was changed", "Please open the link in a browser, and use the button."),
    "nothing": ("There is nothing here", "The address is not complete."),
}


def masked(recipient: str) -> str:
    """An address that its owner knows again, and nobody else can write to."""
    local, at, domain = recipient.rpartition("@")
    if not at:
        return "…"
    return f"{local[:1]}{'•' * 4}@{domain}" if len(local) > 1 else f"•@{domain}"


def built_in(page: Page, recipient: str = "", sender: str = "") -> str:
    """A built-in page. Both are texts as they come."""
    title, words = _WORDS[page]
    of_sender = f" from {html.escape(sender)}" if sender else ""
    shown = words.format(recipient=html.escape(masked(recipient)), sender=of_sender)
    form = f"\n{FORM}" if page == "ask" else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex, nofollow">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n<p>{shown}</p>{form}\n</main>\n</body>\n</html>\n"
    )


def custom(text: str, recipient: str, *, with_form: bool) -> str:
    """A page of the operator's."""
    parts = text.split("{form}")
    shown = html.escape(masked(recipient))
    return (FORM if with_form else "").join(part.replace("{recipient}", shown) for part in parts)


def read_page(path: str) -> str:
    """A page file. OSError; ValueError in words."""
    with open(path, "rb") as file:
        octets = file.read(MAX_PAGE_OCTETS + 1)
    if len(octets) > MAX_PAGE_OCTETS:
        raise ValueError("is larger than 1 MiB")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
