"""Message records: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrelay._core.record import Record, encode_record

HEAD_OCTETS = 60
SHORT = st.binary(max_size=40)


@st.composite
def envelopes(draw: st.DrawFn) -> dict[str, object]:
    recipients = draw(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=30))
    parameters = draw(st.none() | st.lists(st.none() | SHORT, min_size=len(recipients), max_size=len(recipients)))
    return {
        "accepted_ms": draw(st.integers(0, 2**62)),
        "flags": draw(st.integers(0, 15)),
        "priority": draw(st.integers(0, 2)),
        "reverse_path": draw(st.binary(max_size=300)),
        "mail_parameters": draw(SHORT),
        "campaign": draw(st.binary(max_size=300)),
        "tenant": draw(SHORT),
        "pool": draw(SHORT),
        "client": draw(SHORT),
        "helo": draw(st.binary(max_size=300)),
        "prefix": draw(st.binary(max_size=3000)),
        "recipients": recipients,
        "recipient_parameters": parameters,
        "expire_s": draw(st.sampled_from([0, 1, 600, 2**32 - 1])),
        "not_before_ms": draw(st.sampled_from([0, 1, 2**62])),
    }


def a_record(**changed: object) -> bytes:
    fields: dict[str, object] = {
        "accepted_ms": 1_800_000_000_123,
        "flags": 1,
        "priority": 2,
        "reverse_path": b"news@sender.example",
        "mail_parameters": b" RET=HDRS",
        "campaign": b"spring",
        "tenant": b"acme",
        "pool": b"default",
        "client": b"127.0.0.1",
        "helo": b"app.example",
        "prefix": b"Received: from app.example\r\n",
        "recipients": [b"a@one.example", b"b@two.example"],
        "recipient_parameters": [b" NOTIFY=NEVER", None],
    }
    return encode_record(**(fields | changed))  # type: ignore[arg-type]


@given(envelopes())
def test_what_is_encoded_is_read_back(fields: dict[str, object]) -> None:
    record = Record(encode_record(**fields))  # type: ignore[arg-type]
    for name in ("accepted_ms", "flags", "priority", "reverse_path", "mail_parameters", "helo", "prefix"):
        assert getattr(record, name) == fields[name], name
    assert (record.expire_seconds, record.not_before_ms) == (fields["expire_s"], fields["not_before_ms"])
    for name in ("campaign", "tenant", "pool", "client"):
        assert getattr(record, name) == fields[name][:255], name  # type: ignore[index]
    recipients: list[bytes] = fields["recipients"]  # type: ignore[assignment]
    parameters: list[bytes | None] = fields["recipient_parameters"] or [None] * len(recipients)  # type: ignore[assignment]
    expected = [(address, own or b"") for address, own in zip(recipients, parameters, strict=True)]
    assert record.count == len(recipients)
    assert record.recipients() == expected
    assert [record.recipient(number) for number in range(record.count)] == expected


def test_a_message_without_times_is_written_as_ever() -> None:
    """Version 1, in octets: what an earlier relay left in the spool is read, and the other way round."""
    plain, timed = a_record(), a_record(expire_s=600, not_before_ms=1_800_000_060_000)
    assert (plain[0], timed[0]) == (1, 2)
    assert len(timed) == len(plain) + 12
    assert timed[HEAD_OCTETS : HEAD_OCTETS + 12] == struct.pack("<qI", 1_800_000_060_000, 600)
    assert timed[HEAD_OCTETS + 12 :] == plain[HEAD_OCTETS:]
    assert (Record(plain).expire_seconds, Record(plain).not_before_ms) == (0, 0)
    with pytest.raises(ValueError, match="version"):
        Record(b"\x03" + timed[1:])
    with pytest.raises(ValueError, match="lengths"):
        Record(b"\x02" + plain[1:])


def test_the_place_of_the_content_is_left_to_the_commit() -> None:
    raw = a_record()
    assert raw[8:32] == bytes(24)
    placed = raw[:8] + struct.pack("<IIQQ", 7, 0xDEADBEEF, 4096, 10_240) + raw[32:]
    record = Record(placed)
    assert (record.segment, record.length) == (7, 10_240)
    assert record.recipients() == Record(raw).recipients()


def test_the_spool_finds_the_number_of_recipients_at_octet_4() -> None:
    assert struct.unpack_from("<I", a_record(), 4) == (2,)


def test_one_recipient_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="no recipient 2"):
        Record(a_record()).recipient(2)


@given(st.integers(0, len(a_record()) - 1))
def test_a_record_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError):
        Record(a_record()[:length]).recipients()


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_record_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(ValueError):
        Record(bytes([version]) + a_record()[1:])


@given(st.integers(0, HEAD_OCTETS - 1), st.integers(0, 255))
def test_a_damaged_head_never_leads_out_of_the_record(at: int, octet: int) -> None:
    raw = bytearray(a_record())
    raw[at] = octet
    try:
        record = Record(bytes(raw))
        parts = (record.reverse_path, record.mail_parameters, record.campaign, record.tenant, record.pool)
        assert all(len(part) <= len(raw) for part in (*parts, record.client, record.helo, record.prefix))
        if record.count < 1 << 16:
            record.recipients()
    except ValueError:
        return


@given(st.binary(max_size=300))
def test_no_octets_crash_the_reader(raw: bytes) -> None:
    try:
        Record(raw)
    except ValueError:
        return
