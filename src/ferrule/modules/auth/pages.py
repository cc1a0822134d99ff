"""The plain page on which the first administrator is made."""

from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from ferrule.actor import Anyone
from ferrule.db import Read
from ferrule.modules.auth.users import administrator_exists

STYLE = """
:root { color-scheme: light dark; font: 100%/1.5 system-ui, sans-serif; }
body { max-width: 26rem; margin: 10vh auto; padding: 0 1rem; }
label { display: block; margin-top: 1rem; }
input { box-sizing: border-box; width: 100%; padding: .5rem; font: inherit; }
button { margin-top: 1.5rem; padding: .5rem 1.25rem; font: inherit; }
[role=alert] { margin-top: 1rem; padding-left: .75rem; border-left: .25rem solid #c22; }
[role=alert]:empty { display: none; }
"""

# Addresses are relative, so that they work behind any path prefix.
SCRIPT = """
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const form = document.querySelector("form"), button = document.querySelector("button");
const alert = document.querySelector("[role=alert]");
history.replaceState(null, "", location.pathname);
if (!token) alert.textContent =
  "The link is not complete. Copy it whole from where the server was started.";
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  alert.textContent = "";
  button.disabled = true;
  try {
    const fields = Object.fromEntries(new FormData(form));
    const answer = await fetch("api/v1/auth/setup", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept": "application/problem+json" },
      body: JSON.stringify({ token, ...fields }),
    });
    if (answer.ok) {
      document.querySelector("main").replaceChildren(document.querySelector("template").content);
      document.querySelector("h1").focus();
      return;
    }
    const problem = await answer.json();
    alert.textContent = problem.code === "invalid_token"
      ? "The link has expired. Restart the server to get a new one."
      : (problem.errors || []).map((each) => each.detail).join(" ") || problem.detail;
  } catch {
    alert.textContent = "The server cannot be reached. Try again.";
  }
  button.disabled = false;
});
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>{content}</main>
{after}</body>
</html>
"""

FORM = """
<h1>Make the first administrator</h1>
<noscript><p>This page needs JavaScript, to keep the link's secret out of logs.</p></noscript>
<form>
<label>E-mail address
<input name="email" type="email" autocomplete="username" required autofocus></label>
<label>Name
<input name="name" autocomplete="name" maxlength="100"></label>
<label>Password, a few words are easiest
<input name="password" type="password" autocomplete="new-password" required></label>
<div role="alert"></div>
<button>Make administrator</button>
</form>
"""

DONE = """<template><h1 tabindex="-1">You are the administrator</h1>
<p>Sign in on the <a href="docs">documentation page</a>, or with your own client.</p></template>
"""

ALREADY = """
<h1>Already set up</h1>
<p>There is an administrator. Ask them for an account, or read the
<a href="docs">documentation</a>.</p>
"""


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digest(SCRIPT)}",
            f"style-src {_digest(STYLE)}",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

pages = APIRouter()


@pages.get("/setup", include_in_schema=False, response_class=HTMLResponse)
async def setup_page(session: Read, actor: Anyone) -> HTMLResponse:
    """The form, or a friendly word where there is an administrator already."""
    if await administrator_exists(session):
        body = PAGE.format(title="Already set up", style=STYLE, content=ALREADY, after="")
        return HTMLResponse(body, 404, HEADERS)
    after = f"{DONE}<script>{SCRIPT}</script>\n"
    body = PAGE.format(title="Set up", style=STYLE, content=FORM, after=after)
    return HTMLResponse(body, headers=HEADERS)
