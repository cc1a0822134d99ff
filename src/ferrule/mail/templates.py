"""Mails from templates: text with its subject, and HTML beside it."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferrule.errors import ConfigurationError
from ferrule.mail.message import Mail

if TYPE_CHECKING:
    from jinja2 import Environment

OWN = Path(__file__).parent / "templates"
SUBJECT = "Subject:"


class Templates:
    """Writes mails; offered by the kit, `session.kit[Templates]`.

        mail = templates.write("shop/receipt", {"name": "Ann"}, to=address, key=f"receipt/{id}")

    `shop/receipt` are the files `receipt.txt`, whose first line is `Subject: …`, and, where it is
    to have HTML, too, `receipt.html`, in the folder that the module `shop` names as its `mails`.
    They are Jinja templates: HTML is escaped, and a name that has no value is an error. An HTML
    template may extend `mail/layout.html`.

    - `folders`: of each module that has some
    - `instead`: a folder whose templates are taken instead, as `<instead>/shop/receipt.txt`

    Raises `ConfigurationError` for a folder that is missing.
    """

    def __init__(self, folders: Mapping[str, Path], *, instead: Path | None = None) -> None:
        self._folders = {"mail": OWN, **folders}
        self._instead = instead
        for folder in (*folders.values(), *([instead] if instead else [])):
            if not folder.is_dir():
                raise ConfigurationError(f"There is no folder {folder} with templates of mails.")

    def write(
        self,
        name: str,
        values: Mapping[str, Any],
        /,
        *,
        to: str,
        key: str,
        reply_to: str | None = None,
    ) -> Mail:
        """The mail of a template. `ConfigurationError` for one that is missing or broken."""
        from jinja2 import TemplateError, TemplateNotFound

        try:
            text = self._environment.get_template(f"{name}.txt").render(values)
            try:
                html = self._environment.get_template(f"{name}.html")
            except TemplateNotFound as error:
                # One that it extends and that is missing is told below.
                if error.name != f"{name}.html":
                    raise
                html = None
            written = None if html is None else html.render(values)
        except TemplateError as error:
            raise ConfigurationError(
                f"The mail {name!r}: {type(error).__name__}: {error}"
            ) from error
        first, _, rest = text.partition("\n")
        if not first.startswith(SUBJECT) or not first.removeprefix(SUBJECT).strip():
            raise ConfigurationError(
                f"The mail {name!r}: the first line of {name}.txt is not `Subject: …`."
            )
        subject = first.removeprefix(SUBJECT).strip()
        return Mail(
            key=key, to=to, subject=subject, text=rest.lstrip("\n"), html=written, reply_to=reply_to
        )

    @cached_property
    def _environment(self) -> "Environment":
        from jinja2 import (
            ChoiceLoader,
            Environment,
            FileSystemLoader,
            PrefixLoader,
            StrictUndefined,
            select_autoescape,
        )

        loaders = {name: FileSystemLoader(folder) for name, folder in self._folders.items()}
        first = [FileSystemLoader(self._instead)] if self._instead else []
        return Environment(
            loader=ChoiceLoader([*first, PrefixLoader(loaders)]),
            autoescape=select_autoescape(("html",)),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
