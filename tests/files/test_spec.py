from __future__ import annotations

import pytest

from gift_fast.files import spec


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
        ("no_module.f", "thing must be importable, got 'no_module.f', .* ModuleNotFoundError: No"),
        ("math.no_function", "must be importable, got 'math.no_function', .* AttributeError: mod"),
        ("..", r"must be importable, got '\.\.', .* a part between the dots is empty"),
        (".kl", r"must be importable, got '\.kl', .* a part between the dots is empty"),
        ("math.", r"must be importable, got 'math\.', .* a part between the dots is empty"),
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
    function, options = spec.resolve("network", "tests.networks.dropout:rate=0.25", {})
    assert function.__name__ == "dropout"
    assert options == {"rate": 0.25}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f(:", SyntaxError),
        ("raise RuntimeError('no device')", RuntimeError),
        ("raise SystemExit(1)", SystemExit),
    ],
)
def test_whatever_an_import_raises_is_an_error_of_the_specification(
    tmp_path, monkeypatch, source, error
):
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    message = f"thing must be importable, got 'broken_module.f', which raised {error.__name__}: "
    with pytest.raises(ValueError, match=message) as raised:
        spec.resolve("thing", "broken_module.f", REGISTRY)
    assert isinstance(raised.value.__cause__, error)


def untyped(*, size: int):
    return size


def optional(*, size: int | None = None):
    return size


def test_an_option_must_have_a_default():
    for text in ("untyped", "untyped:size=3"):
        with pytest.raises(ValueError, match="thing 'untyped': size must have a default"):
            spec.resolve("thing", text, {"untyped": untyped})


def test_an_option_whose_default_has_no_text_is_left_at_it():
    assert spec.build("thing", "optional", {"optional": optional}) is None
    with pytest.raises(ValueError, match="'optional': size must have a default of type bool, int"):
        spec.resolve("thing", "optional:size=3", {"optional": optional})


def test_a_function_that_takes_other_arguments_is_refused():
    with pytest.raises(ValueError, match=r"thing 'make' must accept 2 .*\(base.*: too many"):
        spec.build("thing", "make", REGISTRY, 7, 8)


def test_a_specification_in_full_holds_every_option():
    assert (
        spec.with_defaults("thing", "make:on=true", REGISTRY)
        == "make:rate=0.5,steps=3,on=true,mode=a"
    )
