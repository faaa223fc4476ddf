from gift_fast.studies.failures import SHOWN, Failure, RunsFailed


def test_a_reason_is_told_once_with_the_first_runs_it_stopped_and_the_number_of_the_others():
    gone = [Failure(f"run {k}", "root must hold cifar100") for k in range(SHOWN + 1260)]
    report = RunsFailed([*gone, Failure("last", "out of memory")], done=2).report()
    assert report.splitlines() == [
        f"{SHOWN + 1261} of {SHOWN + 1263} runs failed:",
        "root must hold cifar100",
        *(f"  run {k}" for k in range(SHOWN)),
        "  and 1260 more",
        "out of memory",
        "  last",
    ]
