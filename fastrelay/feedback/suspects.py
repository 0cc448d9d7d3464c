"""Mail that came back and that may kill the process which reads it.

The parsers are made to survive anything, and still a message could end the process: a fault in a library below Python,
more memory than there is, a reading that the supervisor gives up on. Its sender would try again, for days, and each
time all else that is in hand would hear 451. So:

    before mail is read    the digests of what is read together stand in the file `reading`
    behind it              none do
    at the next start      what stands there was being read at a death: it is suspect, and from now on read alone
    at DEATHS deaths       it is not read any more, but set aside in `unread`, on stable storage, and answered 250

Crash argument. `reading` needs no sync: it is about deaths of the process, which the page cache survives; after a power
cut it may name mail that is innocent, or none. A death while counting counts once more or not at all. Set aside is a
message before its 250; a death between the two sets it aside again, under the same name. What is suspect and innocent
(it was read beside the culprit, or the process was killed by a person) is cleared when it was read.

Bounds: MOST_SUSPECTS names; MOST_UNREAD files, beyond which mail is answered 451. Known faults: none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from fastrelay.spool.folder import sync_folder

log = logging.getLogger("fastrelay.feedback")

FOLDER = "inbound"  # in the state directory
READING, SUSPECTS, UNREAD = "reading", "suspects", "unread"
DEATHS = 3  # the first may have been a neighbour's, the second a person's
DIGEST_OCTETS = 16
MOST_SUSPECTS = 1000
MOST_UNREAD = 100


class Suspects:
    """Which messages were being read when the process died. `folder`: made by `open`."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.unread_folder = os.path.join(folder, UNREAD)
        self._deaths: dict[bytes, int] = {}
        self._fd = -1

    def open(self) -> None:
        """Counts what a death left. OSError."""
        os.makedirs(self.unread_folder, mode=0o700, exist_ok=True)
        self._deaths = self._load()
        self._fd = os.open(os.path.join(self._folder, READING), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        left = _digests(os.read(self._fd, 1 + 255 * DIGEST_OCTETS))
        if left:
            for digest in left:
                self._deaths[digest] = self._deaths.pop(digest, 0) + 1
            while len(self._deaths) > MOST_SUSPECTS:
                del self._deaths[next(iter(self._deaths))]
            self._save()
            self.end()
            log.warning("the feedback process died while it read %d of the messages that came back", len(left))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- around reading (in the reading thread) -----------------------------------------------------------------------

    def begin(self, digests: Sequence[bytes]) -> None:
        """These (at most 255) are read next. OSError."""
        os.pwrite(self._fd, bytes((len(digests),)) + b"".join(digests), 0)

    def end(self) -> None:
        """All of them were read. OSError."""
        os.pwrite(self._fd, b"\0", 0)

    # -- one message --------------------------------------------------------------------------------------------------

    def deaths(self, digest: bytes) -> int:
        """How often the process died while it read this message."""
        return self._deaths.get(digest, 0)

    def clear(self, digest: bytes) -> None:
        """It was read, or set aside and remembered as seen. OSError."""
        if self._deaths.pop(digest, None) is not None:
            self._save()

    def set_aside(self, digest: bytes, octets: bytes) -> bool:
        """Keeps a message that is not read, on stable storage; False if there is no room. OSError."""
        folder = self.unread_folder
        path = os.path.join(folder, f"{digest.hex()}.eml")
        if not os.path.exists(path) and self.set_aside_count() >= MOST_UNREAD:
            log.error(
                "%s is full (%d files): a message that ended this process %d times is answered 451; look at the files "
                "there, report them, and remove them", folder, MOST_UNREAD, DEATHS,
            )  # fmt: skip
            return False
        _write_synced(path, octets)
        sync_folder(folder)
        log.error(
            "a message that came back ended this process %d times; it is not read any more but kept in %s. It may be a "
            "bounce or a complaint: read it by eye, and please report it", DEATHS, path,
        )  # fmt: skip
        return True

    def set_aside_count(self) -> int:
        """Files that wait for a person."""
        try:
            return len(os.listdir(self.unread_folder))
        except FileNotFoundError:
            return 0

    # -- the file -----------------------------------------------------------------------------------------------------

    def _load(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        try:
            with open(os.path.join(self._folder, SUSPECTS), encoding="ascii") as file:
                for line in file:
                    name, _, deaths = line.partition(" ")
                    found[bytes.fromhex(name)] = int(deaths)
        except FileNotFoundError:
            pass
        except ValueError as error:  # cut off by a power cut: what it knew is found out again
            log.warning("%s/%s is damaged (%s) and begins anew", self._folder, SUSPECTS, error)
        return found

    def _save(self) -> None:
        path = os.path.join(self._folder, SUSPECTS)
        with open(path + ".new", "w", encoding="ascii") as file:
            file.writelines(f"{digest.hex()} {deaths}\n" for digest, deaths in self._deaths.items())
        os.replace(path + ".new", path)


def _digests(content: bytes) -> list[bytes]:
    """What stands in `reading`."""
    number = content[0] if content else 0
    whole = min(number, (len(content) - 1) // DIGEST_OCTETS) if content else 0
    return [content[1 + DIGEST_OCTETS * n : 1 + DIGEST_OCTETS * (n + 1)] for n in range(whole)]


def _write_synced(path: str, octets: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
