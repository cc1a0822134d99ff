"""Modules are put in order, and what does not fit together is refused with a remedy."""

import pytest

from ferrule import ConfigurationError, Module
from ferrule.module import resolve


def names(*modules: Module) -> list[str]:
    return [module.name for module in resolve(modules)]


def test_modules_stand_on_those_they_require() -> None:
    shop = Module(name="shop", requires=("items", "auth"))
    items = Module(name="items", requires=("auth",))
    assert names(shop, Module(name="mail"), items, Module(name="auth")) == [
        "auth",
        "items",
        "shop",
        "mail",
    ]


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([Module(name="a", requires=("b",))], r"'a' requires 'b'.*create_app\(modules="),
        ([Module(name="a"), Module(name="a")], "'a' is given twice.*rename"),
        (
            [
                Module(name="a", requires=("b",)),
                Module(name="b", requires=("c",)),
                Module(name="c", requires=("b",)),
            ],
            "circle: b → c → b.*module of its own",
        ),
        ([Module(name="a", requires=("a",))], "circle: a → a"),
    ],
)
def test_modules_that_do_not_fit_are_refused(modules: list[Module], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        resolve(modules)
