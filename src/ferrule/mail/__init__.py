"""Mails: written from templates, handed over by SMTP or printed to the console."""

from ferrule.mail.mailers import Mailer, MailFailed, MailRefused
from ferrule.mail.message import Mail
from ferrule.mail.settings import MailSettings
from ferrule.mail.templates import Templates

__all__ = ["Mail", "MailFailed", "MailRefused", "MailSettings", "Mailer", "Templates"]
