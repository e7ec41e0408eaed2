"""Configs as key=value: every field can be set, what is shown can be set again, misspelt keys are named."""

from dataclasses import dataclass, field

import pytest
import tyro

from jobs import settings


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[tuple[int, int], ...] = ((64, 64),)
    counts: tuple[int, ...] = (1, 5)
    low: float | None = None
    on: bool = False


@dataclass(frozen=True, kw_only=True)
class Outer:
    title: str = "a, b"
    workers: int | tuple[int, int] | None = None
    inner: Inner = field(default_factory=Inner)


def parse(*assignments, default=None):
    default = default or Outer()
    return tyro.cli(Outer, default=default, args=settings.to_flags(default, assignments))


def test_every_kind_of_field_can_be_set():
    made = parse(
        "title=x, y=z", "workers=1,3", "inner.sizes=64,64,32,96", "inner.counts=1", "inner.low=0.5", "inner.on=true"
    )
    inner = Inner(sizes=((64, 64), (32, 96)), counts=(1,), low=0.5, on=True)
    assert made == Outer(title="x, y=z", workers=(1, 3), inner=inner)
    assert parse("inner.low=None", "inner.on=false", "workers=None", default=made).inner.low is None


def test_what_print_config_shows_can_be_set_again():
    config = Outer(title="q", workers=(2, 4), inner=Inner(sizes=((8, 16), (16, 8)), low=2.5, on=True))
    assert parse(*settings.show(config).splitlines()) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.count=1", "did you mean inner.counts"),
        ("counts=1", "did you mean inner.counts"),
        ("titel=1", "did you mean title"),
        ("title", "write key=value"),
        ("inner.on=yes", "write true or false"),
    ],
)
def test_misspelt_settings_name_the_remedy(assignment, message):
    with pytest.raises(ValueError, match=message):
        settings.to_flags(Outer(), [assignment])


@dataclass(frozen=True, kw_only=True)
class Switched:
    on: bool = False
    level: float = 1.0
    inner: Inner = field(default_factory=Inner)

    def unused_settings(self) -> dict[str, str]:
        return {} if self.on else {"level": "unless on", "inner": "unless on"}


@dataclass(frozen=True, kw_only=True)
class Parent:
    switched: Switched = field(default_factory=Switched)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("switched.level=2", r"^switched\.level=2\.0 has no effect unless on$"),
        ("switched.inner.low=2", r"^switched\.inner\.low=2\.0 has no effect unless on$"),
    ],
)
def test_a_setting_that_has_no_effect_beside_others_is_refused(assignment, message):
    default = Parent(switched=Switched(inner=Inner(counts=(3,))))
    settings.check_used(default, default)
    changed = tyro.cli(Parent, default=default, args=settings.to_flags(default, [assignment]))
    with pytest.raises(ValueError, match=message):
        settings.check_used(changed, default)
    on = tyro.cli(Parent, default=default, args=settings.to_flags(default, [assignment, "switched.on=true"]))
    settings.check_used(on, default)
