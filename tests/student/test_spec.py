from __future__ import annotations

import pytest

from gift_fast.student import spec


def make(base: int, *, rate: float = 0.5, steps: int = 3, on: bool = False, mode: str = "a"):
    return base, rate, steps, on, mode


REGISTRY = {"make": make}


def test_a_bare_name_takes_every_default():
    assert spec.build("thing", "make", REGISTRY, 7) == (7, 0.5, 3, False, "a")


def test_every_option_is_read_as_the_type_of_its_default():
    text = "make:rate=2,steps=4,on=true,mode=b"
    assert spec.build("thing", text, REGISTRY, 7) == (7, 2.0, 4, True, "b")


def test_a_positional_argument_cannot_be_set_from_text():
    with pytest.raises(ValueError, match=r"thing 'make' has the options: .*; got 'base'"):
        spec.build("thing", "make:base=1", REGISTRY, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("other", "thing must be one of make, or the import path of a function.*; got 'other'"),
        ("no_module.f", "thing must be importable, got 'no_module.f': No module named"),
        ("math.no_function", "thing must be importable, got 'math.no_function': module 'math'"),
        ("math.pi", "thing must be a function, 'math.pi' is 3.14"),
        ("make:speed=1", "rate, steps, on, mode; got 'speed'"),
        ("make:rate=fast", "thing 'make': rate must be of type float, got 'fast'"),
        ("make:steps=1.5", "thing 'make': steps must be of type int, got '1.5'"),
        ("make:on=1", "thing 'make': on must be true or false, got '1'"),
        ("make:rate", "name:key=value,key=value, got 'make:rate'"),
    ],
)
def test_the_error_names_what_came_and_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message):
        spec.build("thing", text, REGISTRY, 7)


def test_anything_but_a_string_is_refused():
    with pytest.raises(TypeError, match="thing must be a string, got int"):
        spec.resolve("thing", 3, REGISTRY)


def test_a_function_of_the_users_own_is_found_by_its_import_path_with_its_options():
    function, options = spec.resolve("network", "tests.student.networks.dropout:rate=0.25", {})
    assert function.__name__ == "dropout"
    assert options == {"rate": 0.25}
