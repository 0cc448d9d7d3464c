"""The parts of sealing, of one configuration: keys, references, templates, checks. It swaps them all at once.

Known faults: all keys are read again at a reload, on the loop: about a millisecond for each RSA key.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrelay.config.schema import Config
from fastrelay.config.templates import uses_reference
from fastrelay.dkim.keys import Keyring
from fastrelay.dkim.sign import Signer
from fastrelay.feedback.reference import KEY_FILE, References, obtain_key, read_key
from fastrelay.ingest.checks import Checks
from fastrelay.ingest.compose import Composer
from fastrelay.ingest.seal import Seal
from fastrelay.metrics import names
from fastrelay.schedule.unsigned import Unsigned

if TYPE_CHECKING:
    from fastrelay.app import App

log = logging.getLogger(__name__)


LOOK_SECONDS = 5  # how often key files are looked at


@dataclass(frozen=True, slots=True)
class Parts:
    """What follows from one configuration."""

    config: Config
    keyring: Keyring | None
    signer: Signer | None
    composer: Composer | None
    seal: Seal | None


class Sealing:
    """For one worker. `configure` is called at the start and at each reload, `prepare` before it to see whether it
    will."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.unsigned = Unsigned(app)
        self._prepared: Parts | None = None
        self._parts: Parts | None = None
        self._seconds = 0
        self._references: dict[str | None, References] = {}

    @property
    def keyring(self) -> Keyring | None:
        return self._parts.keyring if self._parts is not None else None

    @property
    def signer(self) -> Signer | None:
        return self._parts.signer if self._parts is not None else None

    def prepare(self, config: Config) -> None:
        """Everything that may fail: raises KeyFileError where the key of references can't be had."""
        keyring = signer = None
        if config.dkim.keys:
            keyring = Keyring(config.dkim)
            for problem in keyring.load():
                if not problem.warning:
                    log.error("%s: %s; %s", problem.path, problem.problem, problem.mend)
            signer = Signer(keyring, config.dkim)
        composer = self._composer(config)
        checks = Checks(config.checks, self._count_check) if config.checks.refuse or config.checks.warn else None
        seal = None
        if composer is not None or checks is not None or signer is not None:
            seal = Seal(composer, checks, signer, config.dkim.missing_key, self.unsigned.waits)
        self._prepared = Parts(config, keyring, signer, composer, seal)

    def _composer(self, config: Config) -> Composer | None:
        compose = config.compose
        asked = (
            compose.add, compose.list_unsubscribe, compose.list_unsubscribe_mailto, compose.feedback_id,
            compose.cfbl_address, compose.reference, compose.reverse_path,
        )  # fmt: skip
        if not any(asked):
            return None
        references = self._references_of(compose.reference_key) if uses_reference(compose) else None
        return Composer(compose, config.hostname, references)

    def _references_of(self, path: str | None) -> References:
        """By a key that the operator gave, or our own. It is read once: who reloads may not be allowed to any more."""
        kept = self._references.get(path)
        if kept is None:
            key = read_key(path) if path else obtain_key(os.path.join(self._app.state_dir, KEY_FILE))
            kept = self._references[path] = References(key)
        return kept

    def configure(self, config: Config) -> None:
        """The configuration holds from now on."""
        if self._prepared is None or self._prepared.config is not config:
            self.prepare(config)
        parts, self._prepared = self._prepared, None
        assert parts is not None
        self._app.meters.dkim(self.signer)  # what the one before counted
        self._parts = parts
        self._app.engine.seal = parts.seal
        self.unsigned.configure(parts.signer, config.dkim.missing_key)

    def second(self) -> None:
        """Called once a second: key files that changed are read again, and mail that waited for one goes on."""
        self._seconds += 1
        self._app.meters.dkim(self.signer)
        if self.keyring is not None and self._seconds % LOOK_SECONDS == 0 and self.keyring.reload_if_changed():
            for problem in self.keyring.problems:
                if not problem.warning:
                    log.error("%s: %s; %s", problem.path, problem.problem, problem.mend)
            log.info("DKIM keys were read again: %d of %d can sign", self.keyring.usable, len(self.keyring.slots))
            self.unsigned.keys_changed()

    def reverse_path(self, record: Any, recipient: bytes, spool: int, msgid: int) -> bytes | None:
        """What MAIL FROM is for one recipient (VERP); None: as the client gave it."""
        composer = self._parts.composer if self._parts is not None else None
        if composer is None:
            return None
        return composer.reverse_path(record, recipient, self._app.engine.message_id(msgid, spool))

    def _count_check(self, check: str, action: str) -> None:
        self._app.meters.count(names.MESSAGE_CHECKS, check=check, action=action)
