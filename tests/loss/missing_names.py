"""What the loss does without one of torch's private names. Run by test_torch_internals.py.

Each name is taken away in a forked process while gift_fast is imported, and put back afterwards,
since torch itself needs it. Prints one JSON object: for each name, what each check said.
"""

import json
import os
import sys
import traceback
import warnings

import torch
import torch._dynamo  # once, and not in every forked process

NAMES = [*sys.argv[1:], "nothing"]


class Gone:
    """An attribute that is not there, in the place of one that a class inherits from C."""

    def __get__(self, instance, owner):
        raise AttributeError("taken away")


def take_away(name):
    """Deletes an attribute of torch, and returns what puts it back."""
    *parents, last = name.split(".")
    owner = torch
    for part in parents:
        owner = getattr(owner, part)
    if isinstance(owner, type) and last not in vars(owner):
        setattr(owner, last, Gone())
        return lambda: delattr(owner, last)
    value = getattr(owner, last)
    delattr(owner, last)
    return lambda: setattr(owner, last, value)


def checks(gift_loss, reference_loss):
    """Each a name and a function that raises where something is wrong."""
    close = torch.testing.assert_close
    z, s = torch.randn(2, 6, 5, dtype=torch.float64)
    y = torch.tensor([0, 4, -100, 2, 1, 1])

    def both(function, *arguments, **options):
        leaves = [x.clone().requires_grad_() for x in (z, s)]
        loss = function(*leaves, y, *arguments, **options)
        return loss.detach(), *torch.autograd.grad(loss.sum() * 3, leaves)

    def values_and_gradients():
        for options in ({}, {"reduction": "none"}, {"gamma": 0.7, "soft_label_temperature": 2.0}):
            close(both(gift_loss, **options), both(reference_loss, **options))

    def kept_graphs():
        leaf = z.clone().requires_grad_()
        loss = gift_loss(leaf, s, y)
        first = torch.autograd.grad(loss, leaf, retain_graph=True)
        close(torch.autograd.grad(loss, leaf), first)

    def second_derivatives():
        def second(function):
            leaf = z.clone().requires_grad_()
            (grad,) = torch.autograd.grad(function(leaf, s, y), leaf, create_graph=True)
            return torch.autograd.grad(grad.square().sum(), leaf)

        close(second(gift_loss), second(reference_loss))

    def without_gradients():
        with torch.no_grad():
            close(gift_loss(z, s, y), reference_loss(z, s, y))

    def transforms():
        for function in (
            lambda f: torch.func.grad(f, (0, 1))(z, s, y),
            lambda f: torch.func.vmap(torch.func.grad(f))(z, s, y.clamp_min(0)),
            lambda f: torch.func.jvp(lambda z: f(z, s, y), (z,), (z.cos(),)),
            lambda f: torch.func.hessian(f)(z, s, y),
        ):
            close(function(gift_loss), function(reference_loss))

    def forward_mode():
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(z, s)
            tangents = [
                torch.autograd.forward_ad.unpack_dual(f(dual, s, y)).tangent
                for f in (gift_loss, reference_loss)
            ]
        assert tangents[0] is not None
        close(*tangents)

    def batched_gradients():
        leaf = z.clone().requires_grad_()
        upstream = torch.eye(6, dtype=torch.float64)
        got = [
            torch.autograd.grad(
                f(leaf, s, y, reduction="none"), leaf, upstream, is_grads_batched=True
            )
            for f in (gift_loss, reference_loss)
        ]
        close(*got)

    def lazy_values():
        close(gift_loss(torch._neg_view(z), s, y), reference_loss(-z, s, y))
        zero = torch._efficientzerotensor((6, 5), dtype=torch.float64)
        close(gift_loss(zero, s, y), reference_loss(torch.zeros_like(z), s, y))

    def bad_targets():
        try:
            gift_loss(z, s, y + 5)
        except (IndexError, RuntimeError):
            return
        raise AssertionError("a target out of range was taken")

    def compiled():
        function = torch.compile(gift_loss, backend="aot_eager", fullgraph=True)
        close(both(function), both(reference_loss))

    return {name: check for name, check in locals().items() if callable(check) and name not in (
        "gift_loss", "reference_loss", "close", "both"
    )}  # fmt: skip


def report(name):
    """What each check says in this process, without the name."""
    put_back = (lambda: None) if name == "nothing" else take_away(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from gift_fast import gift_loss
            from gift_fast.loss import torch_internals
            from gift_fast.loss.reference import reference_loss
    finally:
        put_back()
    said = {"missing": sorted(torch_internals.MISSING)}
    for check, function in checks(gift_loss, reference_loss).items():
        try:
            function()
            said[check] = "ok"
        except Exception:
            said[check] = traceback.format_exc()
    return said


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = {}
    for name in NAMES:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                said = report(name)
            except BaseException:
                said = {"import": traceback.format_exc()}
            with os.fdopen(write, "w") as pipe:
                json.dump(said, pipe)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            results[name] = json.load(pipe)
        os.waitpid(child, 0)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
