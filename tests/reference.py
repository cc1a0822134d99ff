"""What the pages of docs/reference say, taken from the code."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import ferrule
from ferrule import create_app
from ferrule.app import Ferrule
from ferrule.cli.settings import listed
from ferrule.db.listing import OPERATORS
from ferrule.errors import Error
from ferrule.http.problems import CODES
from ferrule.http.routes import access_of, api_routes
from ferrule.modules import SHIPPED
from ferrule.resources.query import PAGING
from ferrule.settings import OUTSIDE, settings_type, variables

SOURCE = Path(ferrule.__file__).parent
BEGIN, END = "<!-- generated -->\n", "<!-- end of what is generated -->\n"
PUBLIC = (
    "ferrule", "ferrule.db", "ferrule.schemas", "ferrule.resources", "ferrule.jobs", "ferrule.mail",
    "ferrule.streams", "ferrule.testing",
)  # fmt: skip


def renewed(page: str, generated: str) -> str:
    """The page with its generated part replaced."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + generated.strip() + "\n" + END + rest.partition(END)[2]


@cache
def app() -> Ferrule:
    """The server as it comes, with no setting from outside."""
    return create_app(settings_type(SHIPPED)(_env_file=None))


def setting_names() -> set[str]:
    return {*variables(settings_type(SHIPPED)), *OUTSIDE}


def settings() -> str:
    lines: list[str] = []
    group = None
    for row in listed(app().settings):
        head, nested, _ = row["variable"].removeprefix("FERRULE_").partition("__")
        if not lines or (head if nested else None) != group:
            group = head if nested else None
            title = f"{group.lower()}" if group else "The application"
            lines += [
                "",
                f"## {title}",
                "",
                "| setting | type | default | meaning |",
                "|---|---|---|---|",
            ]
        cells = (f"`{row['variable']}`", row["type"], f"`{row['default']}`", row["meaning"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def route_names() -> set[tuple[str, str]]:
    """Method and path of each route, with and without the prefix of the API."""
    names = {
        ("GET", path) for path in ("/", "/docs", "/redoc", "/openapi.json", "/metrics", "/setup")
    }
    for route in api_routes(app()):
        for method in route.methods or ():
            path = route.path_format or ""
            names |= {(method, path), (method, path.removeprefix("/api/v1"))}
    return names


def routes() -> str:
    paths = app().openapi()["paths"]
    lines: list[str] = []
    tag = None
    for route in api_routes(app()):
        for method in sorted(route.methods or ()):
            operation = paths.get(route.path_format, {}).get(method.lower())
            if operation is None:
                continue
            if operation.get("tags", [""])[0] != tag:
                tag = operation.get("tags", [""])[0]
                lines += ["", f"## {tag}", "", "| route | access | |", "|---|---|---|"]
            access = ", ".join(dict.fromkeys(each.name for each in access_of(route)))
            lines.append(f"| `{method} {route.path_format}` | {access} | {operation['summary']} |")
    return "\n".join(lines)


def commands() -> str:
    import typer
    from typer.testing import CliRunner

    from ferrule.cli.commands import app as commands

    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    root: Any = typer.main.get_command(commands)

    def helped(path: tuple[str, ...], command: Any) -> Iterator[str]:
        text = runner.invoke(commands, [*path, "--help"], prog_name="ferrule").stdout
        text = "\n".join(line.rstrip() for line in text.strip().splitlines())
        yield f"## {' '.join(('ferrule', *path))}\n\n```text\n{text}\n```\n"
        for name, sub in getattr(command, "commands", {}).items():
            yield from helped((*path, name), sub)

    parts = list(helped((), root))
    for module in app().modules:
        if module.commands:
            sub: Any = typer.main.get_command(module.commands())
            parts += helped((sub.name,), sub)
    return "\n".join(parts)


def names() -> str:
    lines: list[str] = []
    for name in PUBLIC:
        module = importlib.import_module(name)
        lines += ["", f"## {name}", "", "| name | |", "|---|---|"]
        for public in public_names(module):
            lines.append(f"| `{public}` | {meaning(module, public)} |")
    return "\n".join(lines)


def public_names(module: Any) -> list[str]:
    return sorted(module.__all__)


def meaning(module: Any, name: str) -> str:
    """The first sentence of what a public name is documented with."""
    value = getattr(module, name)
    text: str | None = None
    if inspect.isclass(value) or inspect.isfunction(value):
        text = inspect.getdoc(value)
    else:
        text = _written_below(name)
    paragraph = " ".join((text or "").partition("\n\n")[0].split()).replace("|", "\\|")
    first = re.split(r"(?<=[.;]) (?=[A-Z])", paragraph)[0]
    assert first, f"{module.__name__}.{name} is not documented"
    return re.sub(";$", ".", first)


@cache
def _texts() -> dict[str, str]:
    """The texts below assignments at the top of all files: `Price = …` and a string."""
    texts: dict[str, str] = {}
    for file in SOURCE.rglob("*.py"):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for node, below in pairwise(body):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                texts[node.targets[0].id] = below.value.value
    return texts


NOTES = {
    "Administrator": "Annotation of an endpoint's `actor`: who has the role `admin`.",
    "Anyone": "Annotation of an endpoint's `actor`: anybody, signed in or not.",
    "SignedIn": "Annotation of an endpoint's `actor`: who is signed in.",
    "Action": "What is done to a resource: list, get, create, replace, update, delete, restore.",
    "Connections": "Annotation of an endpoint's `manager`: the `ConnectionManager`.",
    "IfMatchHeader": "Annotation of a parameter: the `If-Match` of a request, for changes.",
    "Read": "Annotation of an endpoint's `session`: a `ReadSession`.",
    "Write": "Annotation of an endpoint's `session`: a `WriteSession`, committed first.",
    "administrator": "The access of administrators, for routers, resources and modules.",
    "public": "The access of anybody, for routers, resources and modules.",
    "signed_in": "The access of who is signed in, for routers, resources and modules.",
}
"""What is documented here, as its object holds no text."""


def _written_below(name: str) -> str | None:
    return _texts().get(name) or NOTES.get(name)


def error_codes() -> set[str]:
    """Codes of problems and of refused fields, of classes and written where they are raised."""
    for found in pkgutil.walk_packages(ferrule.__path__, "ferrule."):
        if found.name not in ("ferrule.asgi", "ferrule.db.migrations.env"):
            importlib.import_module(found.name)
    codes = {kind.code for kind in _kinds(Error)} | set(CODES.values())
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                codes |= {
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
                }
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                first = node.args[0] if node.args else None
                if name == "PydanticCustomError" and isinstance(first, ast.Constant):
                    codes.add(first.value)
            # The edge's refusals, before any route: return "…", "bad_host".
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                last = node.value.elts[-1] if node.value.elts else None
                if isinstance(last, ast.Constant) and re.match("bad_", str(last.value)):
                    codes.add(last.value)
    return codes


def _kinds(kind: type[Error]) -> Iterator[type[Error]]:
    if kind.__module__.startswith("ferrule."):
        yield kind
    for sub in kind.__subclasses__():
        yield from _kinds(sub)


def list_parameters() -> list[str]:
    return sorted(PAGING)


def list_operators() -> list[str]:
    return [f"__{operator}" for operator in OPERATORS]


GENERATED: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "routes.md": routes,
    "commands.md": commands,
    "public-names.md": names,
}
"""Pages of docs/reference with a part that is generated."""
