"""CRC-32C: the processor's and the table's are the same, and are the published ones."""

from hypothesis import given
from hypothesis import strategies as st

from fastrelay._core.content import crc32c, crc32c_by_table

# RFC 3720 appendix B.4
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


def slow_crc32c(octets: bytes) -> int:
    """Bit by bit, as the polynomial says."""
    rest = 0xFFFFFFFF
    for octet in octets:
        rest ^= octet
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def test_published_sums() -> None:
    for octets, expected in VECTORS:
        assert crc32c(octets) == crc32c_by_table(octets) == slow_crc32c(octets) == expected


@given(st.binary(max_size=200), st.integers(0, 200))
def test_against_the_slow_one_and_in_parts(octets: bytes, cut: int) -> None:
    expected = slow_crc32c(octets)
    assert crc32c(octets) == expected
    assert crc32c(octets[cut:], crc32c(octets[:cut])) == expected
    assert crc32c_by_table(octets[cut:], crc32c_by_table(octets[:cut])) == expected
