"""Policies: one object for one content, keys that tell them apart."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from fastrelay.tls.policy import OPPORTUNISTIC, TlsPolicy, intern

LEVELS = ("none", "opportunistic", "required", "verify", "mta-sts", "dane", "implicit")
CONTENTS = st.fixed_dictionaries(
    {
        "level": st.sampled_from(LEVELS),
        "dane": st.booleans(),
        "mx": st.lists(st.sampled_from(["a.test", "b.test", "c.test"]), unique=True).map(tuple),
        "sts_mode": st.sampled_from(["", "testing", "enforce"]),
        "requiretls": st.booleans(),
        "optional": st.booleans(),
        "secure_mx": st.booleans(),
    }
)


def test_the_default() -> None:
    assert intern() is OPPORTUNISTIC
    assert intern(secure_mx=True, mx=("a.test",)) is OPPORTUNISTIC  # neither makes a difference
    assert (OPPORTUNISTIC.key, OPPORTUNISTIC.kind, OPPORTUNISTIC.can_fail) == ("", "opportunistic", False)


def content(policy: TlsPolicy) -> tuple[object, ...]:
    return (
        policy.level, policy.dane, policy.mx, policy.sts_mode, policy.requiretls, policy.optional, policy.secure_mx
    )  # fmt: skip


@given(CONTENTS, CONTENTS)
def test_the_key_tells_contents_apart(one: dict, other: dict) -> None:
    first, second = intern(**one), intern(**other)
    assert (first is second) == (content(first) == content(second)) == (first.key == second.key)
    assert len(first.key) <= 100
    assert first.words
    assert first.kind
    assert intern(**{**one, "mx": one["mx"][::-1]}) is first


def test_a_policy_that_nobody_has_is_forgotten() -> None:
    key = intern("required", sts_mode="enforce", mx=("gone.test",)).key
    gc.collect()
    again = intern("required", sts_mode="enforce", mx=("gone.test",))
    assert again.key == key


def test_kinds() -> None:
    assert intern("required", dane=True, sts_mode="enforce").kind == "dane"
    assert intern("required", sts_mode="enforce").kind == "mta-sts"
    assert intern(sts_mode="testing").kind == "mta-sts-testing"
    assert intern("required", sts_mode="testing").kind == "required"
    assert intern(requiretls=True, dane=True).kind == "requiretls"
    assert intern("none").kind == "none"


def test_words() -> None:
    words = intern(dane=True, sts_mode="enforce", mx=tuple(f"mx{n}.test" for n in range(5)), optional=True).words
    assert words == (
        "TLS where it is offered; DANE at hosts with TLSA records; MTA-STS (enforce) allows mx0.test, mx1.test, "
        "mx2.test and 2 more; the message says TLS-Required: No"
    )
    assert "none of the hosts" in intern(sts_mode="enforce").words
    assert intern(requiretls=True).words.endswith("the message has REQUIRETLS")
