"""The mail of a report, sent by SMTP.

SMTP tells apart what a worker has to know after a failure: before the server has the whole mail,
it was not sent for certain; once the last byte is on its way and no reply comes, nobody knows.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from urllib.parse import unquote, urlsplit

from tasks.reports import settings
from tasks.reports.rendering import Document
from tasks.reports.settings import SettingError

SECONDS = 30
"""How long the mail server may be silent."""


class NotSentError(Exception):
    """The mail was not sent, for certain."""


class UnsureError(Exception):
    """The mail may have been sent."""


def compose(document: Document, recipients: Sequence[str], key: str, at: datetime) -> EmailMessage:
    """Return the mail of a report. Its Message-ID is made of `key`, so a report that somebody sends
    again is the same mail to a mail program. Raises ValueError for a text that no header holds."""
    sender = settings.sender()
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Subject"] = document.title
    mail["Date"] = format_datetime(at)
    domain = parseaddr(sender)[1].rpartition("@")[2] or "localhost"
    mail["Message-ID"] = f"<{key}@{domain}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(document.text)
    mail.add_alternative(document.html, subtype="html")
    mail.add_attachment(document.csv, subtype="csv", filename="report.csv")
    return mail


def send(mail: EmailMessage) -> list[str]:
    """Hand a mail to the server of SMTP_URL. Return the recipients that it refused, if it took the
    mail for others. Raises NotSentError, UnsureError, and SettingError for a wrong setting."""
    recipients = [address.strip() for address in str(mail["To"]).split(",")]
    with _connected() as server:
        try:
            refused = _envelope(server, parseaddr(str(mail["From"]))[1], recipients)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotSentError(_shown(error)) from None
        try:
            code, reply = server.data(mail.as_bytes())
        except smtplib.SMTPDataError as error:  # before the mail itself
            raise NotSentError(_shown(error)) from None
        except (smtplib.SMTPException, OSError) as error:
            raise UnsureError(f"the mail server fell silent: {_shown(error)}") from None
        if code != 250:
            raise NotSentError(f"the mail server refused it: {code} {_line(reply)}")
        return refused


def _envelope(server: smtplib.SMTP, sender: str, recipients: Sequence[str]) -> list[str]:
    server.ehlo_or_helo_if_needed()
    code, reply = server.mail(sender)
    if code != 250:
        raise smtplib.SMTPSenderRefused(code, reply, sender)
    refused = []
    for address in recipients:
        if not address.isascii():  # it would need SMTPUTF8, which few servers have
            refused.append(f"{address} (expected plain letters)")
            continue
        code, reply = server.rcpt(address)
        if code not in (250, 251):
            refused.append(f"{address} ({code} {_line(reply)})")
    if len(refused) == len(recipients):
        raise smtplib.SMTPException(f"all recipients were refused: {', '.join(refused)}")
    return refused


@contextmanager
def _connected() -> Iterator[smtplib.SMTP]:
    """Yield a connection to the server of SMTP_URL, encrypted where the URL says smtps, or where
    it is not this machine and offers STARTTLS."""
    url = urlsplit(settings.smtp_url())
    try:
        port = url.port
    except ValueError:
        port = 0
    if url.scheme not in ("smtp", "smtps") or not url.hostname or port == 0:
        raise SettingError("SMTP_URL: expected smtp://USER:PASSWORD@HOST:PORT or smtps://…")
    # The name that it greets with. It would look for the one of this machine in the DNS, at length.
    here = parseaddr(settings.sender())[1].rpartition("@")[2] or "localhost"
    try:
        if url.scheme == "smtps":
            context = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                url.hostname, port or 465, here, timeout=SECONDS, context=context
            )
        else:
            server = smtplib.SMTP(url.hostname, port or 25, here, timeout=SECONDS)
        _log_in(server, url.username, url.password, plain=url.scheme == "smtp")
    except (smtplib.SMTPException, OSError) as error:
        raise NotSentError(_shown(error)) from None
    try:
        yield server
    finally:
        with suppress(smtplib.SMTPException, OSError):
            server.quit()


def _log_in(server: smtplib.SMTP, user: str | None, password: str | None, *, plain: bool) -> None:
    """Begin encryption, and log in. A password is never sent in the clear."""
    server.ehlo()
    if plain and server.has_extn("starttls"):
        server.starttls(context=ssl.create_default_context())
        server.ehlo()
        plain = False
    if user:
        if plain:
            raise smtplib.SMTPException(
                "the mail server offers no STARTTLS, so the password was not sent; use smtps://"
            )
        server.login(unquote(user), unquote(password or ""))


def _shown(error: Exception) -> str:
    """Return an error without what a server answered to a password."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"the mail server refused the login: {error.smtp_code}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_line(error.smtp_error)}"
    return f"{type(error).__name__}: {error}"


def _line(reply: bytes | str) -> str:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return " ".join(text.split())[:200]
