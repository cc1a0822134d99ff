"""What accounts and logins refuse."""

from ferrule.errors import Conflict, Forbidden, Unauthenticated
from ferrule.security.tokens import InvalidToken


class InvalidCredentials(Unauthenticated):
    """No such account, another password, disabled, or not verified: the answer is the same."""

    code = "invalid_credentials"

    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")


class RefreshReused(InvalidToken):
    """A used refresh token was shown: somebody copied it. That the login ends is committed."""

    keeps_writes = True


class EmailTaken(Conflict):
    code = "email_taken"

    def __init__(self) -> None:
        super().__init__("There is an account with this e-mail address.")


class RegistrationClosed(Forbidden):
    code = "registration_closed"

    def __init__(self) -> None:
        super().__init__("Accounts are made by administrators here. Ask one.")


class LastAdministrator(Conflict):
    code = "last_administrator"

    def __init__(self) -> None:
        super().__init__("This is the last administrator: make another one first.")


class AlreadySetUp(Conflict):
    code = "already_set_up"

    def __init__(self) -> None:
        super().__init__("There is an administrator already. Sign in, or ask them.")
