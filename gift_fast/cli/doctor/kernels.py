"""The backends of the loss and their self-checks."""

from __future__ import annotations

from collections.abc import Mapping

from gift_fast.cli.doctor.answers import Answers, asked, reason


def backends() -> Answers:
    """Return which backends are available, why the others are not, and their self-checks."""
    from gift_fast.loss.operators import backends as available

    found = dict(available())
    for backend, outcome in self_checks().items():
        found[f"{backend} self-check"] = outcome
    return found


def self_checks() -> Mapping[str, str]:
    """Return the outcome of every backend's self-check, or why it failed."""
    try:
        from gift_fast.loss.self_check import self_check

        return self_check()
    except Exception as error:
        return {"every": f"failed: {reason(error)}"}


def cpu() -> Answers:
    """Return the instruction set of torch and of the CPU kernels, and how they were built."""
    import torch

    from gift_fast.loss.operators import CPU_LIBRARY

    found = {"torch's capability": asked(torch.backends.cpu.get_cpu_capability)}
    found["torch's threads"] = asked(torch.get_num_threads)
    if CPU_LIBRARY is not None:
        built = CPU_LIBRARY.build_info()
        found |= {f"kernels: {name.replace('_', ' ')}": str(x) for name, x in built.items()}
    return found
