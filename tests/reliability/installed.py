"""Uses the package that is installed, and prints what came out as JSON; run by installs.py.

It imports nothing of the checkout. ``--eager`` compiles without a C++ compiler, ``--student`` also
runs a small demonstration.
"""

import json
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

import gift_fast
from gift_fast import GIFTLoss, gift_loss

GAMMA, ALPHA = 0.1, 0.1  # the defaults of gift_loss


def batch(dtype=torch.float64):
    """Logits and soft labels (32, 10), and targets of which one is ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(32, 10, generator=generator, dtype=torch.float64) * 3
    soft_labels = torch.randn(32, 10, generator=generator, dtype=torch.float64)
    target = torch.randint(10, (32,), generator=generator)
    target[5] = -100
    return logits.to(dtype).requires_grad_(), soft_labels.to(dtype), target


def definition(logits, soft_labels, target):
    """The loss as the paper has it, written here once more."""
    kept = target >= 0
    logits, soft_labels, target = logits[kept], soft_labels[kept], target[kept]
    classes = logits.shape[1]
    hard = torch.nn.functional.one_hot(target, classes).to(logits.dtype)
    hard = hard * (1 - ALPHA) + ALPHA / classes
    hard = hard / hard.norm(dim=1, keepdim=True)
    soft = soft_labels / soft_labels.norm(dim=1, keepdim=True)
    refined = GAMMA * hard + (1 - GAMMA) * soft
    return (1 - torch.nn.functional.cosine_similarity(logits, refined)).mean()


def step(loss, dtype=torch.float64):
    """The loss and the gradient of the logits, as one vector."""
    logits, soft_labels, target = batch(dtype)
    value = loss(logits, soft_labels, target)
    (grad,) = torch.autograd.grad(value, logits)
    return torch.cat([value.detach().reshape(1), grad.flatten()])


def exported(folder):
    """Exports a training step's loss, and has another process load and run it."""
    path = Path(folder, "loss.pt2")
    logits, soft_labels, target = batch()
    program = torch.export.export(GIFTLoss(), (logits.detach(), soft_labels, target))
    torch.export.save(program, path)
    load = f"""
import gift_fast.loss, torch
print(torch.export.load({str(path)!r}).module()(*torch.load({str(path) + ".in"!r})).item())
"""
    torch.save((logits.detach(), soft_labels, target), f"{path}.in")
    said = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise SystemExit(said.stderr)
    expected = definition(*batch()).item()
    assert abs(float(said.stdout) - expected) < 1e-12, (said.stdout, expected)
    return "yes"


def demonstration(folder):
    """Trains one student with the installed command."""
    command = ["gift-fast", "demo", "--quiet", "--losses", "gift", "--seeds", "1", "--ipc", "1"]
    subprocess.run(
        [*command, "--epochs", "2", "--out", str(Path(folder, "demo"))],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return "yes"


def main():
    """Checks everything; any failure is an exception."""
    expected = step(definition)
    difference = (step(gift_loss) - expected).abs().max().item()
    assert difference < 1e-12, difference
    backend = "aot_eager" if "--eager" in sys.argv else "inductor"
    compiled = torch.compile(gift_loss, fullgraph=True, backend=backend)
    assert (step(compiled) - expected).abs().max() < 1e-12
    in_float32 = (step(gift_loss, torch.float32) - expected).abs().max()
    assert in_float32 < 1e-5, in_float32
    with tempfile.TemporaryDirectory() as folder:
        answers = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pip": version("pip"),
            "package": str(Path(gift_fast.__file__).parent),
            "backends": gift_fast.backends(),
            "float64": difference,
            "compiled": backend,
            "exported": exported(folder),
        }
        if "--student" in sys.argv:
            answers["student"] = demonstration(folder)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
