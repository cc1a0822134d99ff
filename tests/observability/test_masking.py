import time

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from ferrule.observability.masking import MASK, MAX_TEXT, mask, mask_text

CANARY = "canary7Yq2Zx"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnk3WXEyWngifQ.c2lnbmF0dXJlX2NhbmFyeQ"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}.abc-def",
        f"authorization: Basic {CANARY}==",
        f"authorization: Digest username=u, response={CANARY}",
        f"BEARER  {CANARY}",
        f"?next=/&Authorization=Bearer%20{CANARY}",
        f"postgresql://app:{CANARY}@db:5432/app",
        f"redis://:{CANARY}@cache/0",
        f"https://{CANARY}@example.com/x",
        f"amqp://u:p@{CANARY}@host/",
        f"postgresql://app:p/{CANARY}@db/app",
        f"password={CANARY}",
        f"the Password: {CANARY}",
        f"new_password_confirm = '{CANARY} with words'",
        f"{{'refresh_token': '{CANARY}', 'a': 1}}",
        f'{{"api_key": "{CANARY} two words"}}',
        f'{{"api-key":"{CANARY}',
        f'body: "{{\\"password\\": \\"{CANARY}\\"}}"',
        f"{{'password': 'it\\'s {CANARY}'}}",
        f'{{"password": "a\\"b {CANARY}"}}',
        f"/reset?token={CANARY}&x=1",
        f"[(b'cookie', b'session={CANARY}; a=b')]",
        f"Cookie: a=b; ferrule_session={CANARY}",
        f"Set-Cookie: s={CANARY}; HttpOnly",
        f"client_secret={CANARY}",
        f"input_value='{CANARY}, x', input_type=str",
    ],
)
def test_masks_credentials_by_shape(text: str) -> None:
    masked = mask_text(f"before {text}\nafter")
    assert CANARY not in masked
    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith("after")


def test_masks_tokens_that_have_no_name() -> None:
    assert mask_text(f"got {JWT}, refused") == f"got {MASK}, refused"


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/v1/items/{item_id} 200 at 12:30:01",
        "https://example.com:8443/path?page=2",
        "user:01926f3e-aaaa-7bbb-8ccc-0123456789ab",
        "mail to somebody@example.com",
        "the key is missing",
    ],
)
def test_leaves_the_rest_alone(text: str) -> None:
    assert mask_text(text) == text


def test_masks_by_key_at_any_depth() -> None:
    value = {
        "user": {"passWord": CANARY, "name": "Ada"},
        "headers": [(b"Authorization", CANARY.encode()), ("accept", "*/*")],
        "codes": [{"X-API-Key": CANARY}, {"cookies": {"a": CANARY}}],
        "secret": SecretStr(CANARY),
        "plain": SecretStr(CANARY),
        "raw": CANARY.encode(),
    }
    masked = mask("data", value)
    assert CANARY not in repr(masked)
    assert masked["user"] == {"passWord": MASK, "name": "Ada"}
    assert masked["headers"] == [["Authorization", MASK], ["accept", "*/*"]]


def test_counts_of_tokens_are_no_secrets() -> None:
    assert mask("prompt_tokens", 512) == 512
    assert mask("prompt_tokens", CANARY) == MASK
    assert mask("token", 123456) == MASK
    assert mask("has_password", True) is True


def test_values_become_what_json_can_hold() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError(CANARY)

    circle: list[object] = []
    circle.append(circle)
    assert mask("a", Broken()) == "<Broken>"
    assert mask("a", float("nan")) == "nan"
    assert len(mask("a", 10**6000)) < MAX_TEXT
    assert "…" in repr(mask("a", circle))
    assert len(mask("a", list(range(10_000)))) == 100


def test_refused_values_in_validation_errors() -> None:
    class Form(BaseModel):
        password: int
        name: int

    with pytest.raises(ValidationError) as caught:
        Form.model_validate({"password": CANARY, "name": CANARY})
    assert CANARY not in mask_text(str(caught.value))


@pytest.mark.parametrize("gap", range(0, 60, 7))
def test_a_cut_does_not_uncover_half_a_secret(gap: int) -> None:
    url = f"postgresql://app:{CANARY}@db/app"
    text = f"{'x' * 200} {'y' * (MAX_TEXT - 230 - gap)} {url} {'z' * 99}"
    masked = mask_text(text)
    assert "canary7" not in masked
    assert "://app:" not in masked


@pytest.mark.parametrize(
    "part",
    ["://a:", "://@a", "eyJ", "eyJaaaaa.", "bearer ", "basic+", "token", "token=", "token ",
     'password"', 'password: "', "input_value=", "authorization: ", "\\", "'token',"],
)  # fmt: skip
def test_hostile_texts_take_bounded_time(part: str) -> None:
    text = part * (MAX_TEXT // len(part))
    started = time.process_time()
    mask_text(text)
    assert time.process_time() - started < 0.5
