"""Telling people: one message, to the log file or any address of apprise that `SCARFORGE_NOTIFY` names.

What leaves the machine holds figures and the names of stages. The text of an error, which may name a patient or a
folder, stays in the log file. An address holds secrets: it is told by its kind and its number.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.errors import InputError
from engine.workspace import MESSAGES

if TYPE_CHECKING:
    from apprise import NotifyBase

LOG_FILE = MESSAGES
_WAYS = "log, or an address of apprise, such as mailtos://USER:PASSWORD@HOST?to=B, slack://..., jsons://HOST/PATH"
_ANSWER = re.compile(r"error=(\d{3})\b")
_logger = logging.getLogger("scarforge.notify")


@dataclass(frozen=True)
class Message:
    """What happened, in a line, and the figures; `private` lines are for the log file only."""

    subject: str
    lines: tuple[str, ...] = ()
    url: str = ""
    private: tuple[str, ...] = field(default=(), repr=False)

    @property
    def body(self) -> str:
        """What may leave the machine, below the subject."""
        return "\n".join([*self.lines, *([self.url] if self.url else [])])

    @property
    def text(self) -> str:
        """Everything that may leave the machine."""
        return f"{self.subject}\n{self.body}".strip()


class Notifier(Protocol):
    """One way to tell people. Its text form names it without any secret."""

    def send(self, message: Message) -> None:
        """Send a message, or raise an `OSError` that says why it cannot be sent."""


@dataclass(frozen=True)
class LogFile:
    """Appends to a file, with the time."""

    path: Path

    def __str__(self) -> str:
        """Name the file."""
        return f"log file {self.path}"

    def send(self, message: Message) -> None:
        """Append the message as indented lines below the time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line for part in (message.text, *message.private) for line in part.splitlines()]
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} " + "\n    ".join(lines) + "\n")


@dataclass(frozen=True)
class Service:
    """Sends through apprise, to the address of a number in `SCARFORGE_NOTIFY`."""

    number: int
    way: "NotifyBase" = field(repr=False)

    def __str__(self) -> str:
        """Name the kind of service, and nothing of its address."""
        return f"address {self.number} of SCARFORGE_NOTIFY ({self.way.service_name})"

    def send(self, message: Message) -> None:
        """Send the message; of what apprise says of a failure only the number of an answer is told."""
        with _unheard() as said:
            sent = self.way.notify(body=message.body or message.subject, title=f"ScarForge: {message.subject}")
        if not sent:
            answer = _ANSWER.search("\n".join(said))
            raise OSError(f"answered {answer[1]}" if answer else "it was not reached, or took no message")


def notifiers(environment: Mapping[str, str], home: Path) -> list[Notifier]:
    """Return the ways that `SCARFORGE_NOTIFY` names, separated by spaces; the log file where it is not set.

    Args:
        environment: Usually `os.environ`.
        home: The workspace, where the log file lies.

    Raises:
        InputError: A way is unknown or incomplete, or would send its password unencrypted.
    """
    ways = enumerate((environment.get("SCARFORGE_NOTIFY") or "log").split(), 1)
    return [LogFile(home / LOG_FILE) if way == "log" else _service(number, way) for number, way in ways]


def notify(ways: Sequence[Notifier], message: Message, log: logging.Logger = _logger) -> int:
    """Send a message every way and return how many succeeded; a way that fails is logged and stops nothing."""
    sent = 0
    for way in ways:
        try:
            way.send(message)
            sent += 1
        except OSError as error:
            log.warning("%s could not be told %r: %s", way, message.subject, error)
    return sent


def _service(number: int, address: str) -> Service:
    from apprise import Apprise, AppriseAsset, NotifyBase

    asset = AppriseAsset(app_id="ScarForge", app_desc="ScarForge", app_url="", async_mode=False)
    with _unheard():
        way = Apprise.instantiate(address, asset=asset)
    if not isinstance(way, NotifyBase):
        raise InputError(f"SCARFORGE_NOTIFY: address {number} is none that apprise knows, or not whole; use {_WAYS}")
    if way.password and not way.secure:
        raise InputError(
            f"SCARFORGE_NOTIFY: address {number} would send its password unencrypted; use the encrypted kind of it, "
            "such as mailtos:// for mailto://"
        )
    return Service(number, way)


@contextmanager
def _unheard() -> Iterator[list[str]]:
    """Keep what apprise and urllib3 log out of every log, and give it: it may hold an address."""
    said: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3.connectionpool", "urllib3.util.retry")]
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield said
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
