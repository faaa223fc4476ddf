"""The backends of the loss and their self-checks."""

from __future__ import annotations

from collections.abc import Mapping

from gift_fast.cli.doctor.queries import Section, format_error, query


def backends() -> Section:
    """Return the available backends, why the others are not available, and the self-checks."""
    from gift_fast.loss.operators import backends as available

    found = dict(available())
    for backend, outcome in self_checks().items():
        found[f"{backend} self-check"] = outcome
    return found


def self_checks() -> Mapping[str, str]:
    """Return the outcome of the self-check of every backend, or the error that it raised."""
    try:
        from gift_fast.loss.self_check import self_check

        return self_check()
    except Exception as error:
        return {"every": f"failed: {format_error(error)}"}


def cpu() -> Section:
    """Return the CPU capability of torch and of the CPU kernels, and the build of the kernels."""
    import torch

    from gift_fast.loss.operators import CPU_LIBRARY

    found = {"torch's capability": query(torch.backends.cpu.get_cpu_capability)}
    found["torch's threads"] = query(torch.get_num_threads)
    if CPU_LIBRARY is not None:
        built = CPU_LIBRARY.build_info()
        found |= {f"kernels: {name.replace('_', ' ')}": str(x) for name, x in built.items()}
    return found
