<%
    def code(text):
        lines = [line for line in (text or "pass").splitlines() if not line.strip().startswith("# ###")]
        return "\n".join(lines).strip() or "pass"

    def quoted(value):
        return "None" if value is None else repr(value).replace("'", '"')

    body = code(upgrades) + code(downgrades)
%>"""${message}"""
% if "sa." in body or "op." in body:

% endif
% if "sa." in body:
import sqlalchemy as sa
% endif
% if "op." in body:
from alembic import op
% endif
% if imports:
${imports}
% endif

revision = ${quoted(up_revision)}
down_revision = ${quoted(down_revision)}
branch_labels = ${quoted(branch_labels)}
depends_on = ${quoted(depends_on)}


def upgrade() -> None:
    ${code(upgrades)}


def downgrade() -> None:
    ${code(downgrades)}
