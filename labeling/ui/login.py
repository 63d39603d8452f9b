"""The sign-in page: plain HTML that needs no script."""

from __future__ import annotations

from html import escape

from labeling.i18n import Language
from labeling.ui.shell import MARK, PRODUCT, Strings, head_tags


def login_page(error: str, language: Language) -> str:
    """The whole page, with the reason why the last attempt failed, if there was one."""
    strings = Strings(language)
    problem = f'<p class="ws-login-error" role="alert">{escape(error)}</p>' if error else ""
    return f"""<!doctype html>
<html lang="{language.tag}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(strings.text("login.title"))} · {PRODUCT}</title>
{head_tags()}
</head>
<body class="ws-login">
<main>
  <h1 class="ws-brand">{MARK}<span>{PRODUCT}</span></h1>
  {problem}
  <form method="post" action="/login">
    <label for="name">{escape(strings.text("login.name"))}</label>
    <input id="name" name="name" autocomplete="username" required autofocus>
    <label for="password">{escape(strings.text("login.password"))}</label>
    <input id="password" name="password" type="password" autocomplete="current-password" required>
    <button type="submit" class="ws-primary">{escape(strings.text("login.submit"))}</button>
  </form>
  <p class="ws-quiet">{escape(strings.text("login.forgotten"))}</p>
</main>
</body>
</html>
"""
