"""Telling people: one message, through whichever ways `SCARFORGE_NOTIFY` names.

What leaves the machine holds figures and the names of stages. The text of an error, which may name a patient or a
folder, stays in the log file.
"""

import logging
import os
import smtplib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import requests

from common.errors import InputError
from engine.workspace import MESSAGES

TIMEOUT_S = 10.0
LOG_FILE = MESSAGES
_WAYS = "log, webhook:https://..., smtp://HOST[:PORT]?from=A&to=B (smtps:// for TLS from the start)"
_logger = logging.getLogger("scarforge.notify")


@dataclass(frozen=True)
class Message:
    """What happened, in a line, and the figures; `private` lines are for the log file only."""

    subject: str
    lines: tuple[str, ...] = ()
    url: str = ""
    private: tuple[str, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """Everything that may leave the machine."""
        return "\n".join([self.subject, *self.lines, *([self.url] if self.url else [])])


class Notifier(Protocol):
    """One way to tell people. Its text form names it without any secret."""

    def send(self, message: Message) -> None:
        """Send a message, or raise an `OSError` or `ValueError` that says why it cannot be sent."""


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
        lines = [*message.text.splitlines(), *(line for part in message.private for line in part.splitlines())]
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} " + "\n    ".join(lines) + "\n")


@dataclass(frozen=True)
class Webhook:
    """Posts JSON: `text` (as chat services expect it), `subject`, `lines`, `url`."""

    address: str = field(repr=False)  # chat services put their secret into it

    def __str__(self) -> str:
        """Name the host, and nothing after it."""
        return f"webhook at {urlsplit(self.address).hostname}"

    def send(self, message: Message) -> None:
        """Post the message; any answer but success is an error."""
        content = {
            "text": message.text,
            "subject": message.subject,
            "lines": list(message.lines),
            "url": message.url,
        }
        response = requests.post(self.address, json=content, timeout=TIMEOUT_S)
        if not response.ok:
            raise OSError(f"answered {response.status_code}")


@dataclass(frozen=True)
class Mail:
    """Sends a mail; with a user name, over TLS only."""

    host: str
    port: int
    sender: str
    to: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls_from_start: bool = False

    def __str__(self) -> str:
        """Name the server and the receivers."""
        return f"mail to {', '.join(self.to)} through {self.host}"

    def send(self, message: Message) -> None:
        """Send the message, encrypted where the server can."""
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = f"ScarForge: {message.subject}", self.sender, ", ".join(self.to)
        mail.set_content(message.text)
        with self._connect() as server:
            encrypted = self.tls_from_start or self._start_tls(server)
            if self.user:
                if not encrypted:
                    raise OSError("the server offers no TLS, so that the password is not sent")
                server.login(self.user, self.password)
            server.send_message(mail)

    def _connect(self) -> smtplib.SMTP:
        if self.tls_from_start:
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_S, context=ssl.create_default_context())
        return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_S)

    def _start_tls(self, server: smtplib.SMTP) -> bool:
        server.ehlo()
        if not server.has_extn("starttls"):
            return False
        server.starttls(context=ssl.create_default_context())
        return True


def notifiers(environment: Mapping[str, str], home: Path) -> list[Notifier]:
    """Return the ways that `SCARFORGE_NOTIFY` names, separated by spaces; the log file where it is not set.

    Args:
        environment: Usually `os.environ`; mail reads SCARFORGE_SMTP_USER and SCARFORGE_SMTP_PASSWORD too.
        home: The workspace, where the log file lies.

    Raises:
        InputError: A way is unknown or incomplete.
    """
    return [_notifier(way, environment, home) for way in (environment.get("SCARFORGE_NOTIFY") or "log").split()]


def notify(ways: Sequence[Notifier], message: Message, log: logging.Logger = _logger) -> int:
    """Send a message every way and return how many succeeded; a way that fails is logged and stops nothing."""
    sent = 0
    for way in ways:
        try:
            way.send(message)
            sent += 1
        except (OSError, ValueError) as error:  # requests' and smtplib's own errors are of these kinds
            reason = str(error) if type(error) is OSError else type(error).__name__  # others may hold the address
            log.warning("%s could not be told %r: %s", way, message.subject, reason)
    return sent


def _notifier(way: str, environment: Mapping[str, str], home: Path) -> Notifier:
    kind, _, rest = way.partition(":")
    if way == "log":
        return LogFile(home / LOG_FILE)
    try:
        if kind == "webhook" and urlsplit(rest).scheme in ("http", "https") and urlsplit(rest).hostname:
            return Webhook(rest)
        if kind in ("smtp", "smtps"):
            return _mail(kind, rest, environment)
    except ValueError as error:  # an address or a port that is none
        raise InputError(f"SCARFORGE_NOTIFY: the address of {kind} cannot be read; use {_WAYS}") from error
    named = kind.partition("/")[0]  # what follows may be the secret of an address that lacks its `webhook:`
    raise InputError(f"SCARFORGE_NOTIFY: {named!r} is no complete way to tell people; use {_WAYS}")


def _mail(kind: str, rest: str, environment: Mapping[str, str]) -> Mail:
    parts = urlsplit(f"{kind}://{rest.removeprefix('//')}")
    query = parse_qs(parts.query)
    to = tuple(address for value in query.get("to", []) for address in value.split(",") if address)
    if not parts.hostname or not to:
        raise InputError(f"SCARFORGE_NOTIFY: {kind} needs a host and to=ADDRESS; use {_WAYS}")
    return Mail(
        host=parts.hostname,
        port=parts.port or (465 if kind == "smtps" else 25),
        sender=query.get("from", [f"scarforge@{os.uname().nodename}"])[0],
        to=to,
        user=environment.get("SCARFORGE_SMTP_USER", ""),
        password=environment.get("SCARFORGE_SMTP_PASSWORD", ""),
        tls_from_start=kind == "smtps",
    )
