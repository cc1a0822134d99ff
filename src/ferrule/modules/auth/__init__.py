"""Accounts, logins, and who is calling."""

from ferrule.module import Module
from ferrule.modules.auth.api import router
from ferrule.modules.auth.cli import commands
from ferrule.modules.auth.door import bearer
from ferrule.modules.auth.models import Login, User
from ferrule.modules.auth.pages import pages
from ferrule.modules.auth.settings import AuthSettings
from ferrule.modules.auth.welcome import lifespan

__all__ = ["AuthSettings", "Login", "User", "module"]

module = Module(
    name="auth",
    router=router,
    pages=pages,
    models=(User, Login),
    settings=AuthSettings,
    doors=(bearer,),
    lifespan=lifespan,
    commands=commands,
)
