"""Many Python threads at once, and processes forked after the kernels have run."""

import multiprocessing
import os
import threading

import pytest
import torch
from expected import answer, batch, needs_cpu_kernel

from gift_fast import gift_loss

pytestmark = [
    needs_cpu_kernel,
    # Python 3.12 warns of any fork beside threads; that it goes well is what is tested here.
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"),
]


def in_threads(count, function):
    """What each thread's call returned; all of them begin at once."""
    barrier, results, errors = threading.Barrier(count), [None] * count, []

    def run(i):
        try:
            barrier.wait()
            results[i] = function(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


# 40,000 elements are done by the calling thread, 256,000 by torch's threads.
@pytest.mark.parametrize("shape", [(8, 10), (40, 1000), (256, 1000)], ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_threads_that_share_their_inputs_get_the_same_bits(dtype, shape):
    torch.set_num_threads(2)
    inputs, upstream = batch(*shape, dtype), torch.tensor(1.5)
    want = answer(*inputs, upstream=upstream)
    for got in in_threads(8, lambda _: [answer(*inputs, upstream=upstream) for _ in range(5)]):
        for result in got:
            torch.testing.assert_close(result, want, rtol=0, atol=0)


def test_threads_with_batches_and_options_of_their_own_do_not_mix_them_up():
    batches = [batch(16 + i, 50 + i, seed=i) for i in range(8)]
    options = [{"gamma": i / 8, "reduction": ("mean", "sum")[i % 2]} for i in range(8)]
    want = [answer(*x, **named) for x, named in zip(batches, options, strict=True)]

    def run(i):
        return [answer(*batches[i], **options[i]) for _ in range(20)]

    for results, expected in zip(in_threads(8, run), want, strict=True):
        for result in results:
            torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_the_backward_pass_may_run_in_another_thread():
    logits, soft_labels, target = batch(64, 500)
    want = answer(logits, soft_labels, target, requested=(True, False)).logits_grad
    leaves = [logits.clone().requires_grad_() for _ in range(8)]
    losses = [gift_loss(leaf, soft_labels, target) for leaf in leaves]
    in_threads(8, lambda i: losses[i].backward())
    for leaf in leaves:
        torch.testing.assert_close(leaf.grad, want, rtol=0, atol=0)


def test_threads_that_pass_bad_targets_each_get_their_error():
    logits, soft_labels, target = batch(64, 500)

    def run(i):
        bad = target.clone()
        bad[i] = 500 + i
        with pytest.raises(IndexError, match=f"got {500 + i} in row {i}$"):
            gift_loss(logits, soft_labels, bad)
        return gift_loss(logits, soft_labels, target)

    assert len({x.item() for x in in_threads(8, run)}) == 1


def _answer_of_a_child(connection, inputs):
    connection.send([x.numpy() for x in answer(*inputs)])
    connection.close()


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork, as on Linux"
)
@pytest.mark.parametrize("shape", [(8, 10), (256, 1000)], ids="{0[0]}x{0[1]}".format)
def test_a_process_forked_after_use_gets_the_same_bits(shape):
    torch.set_num_threads(2)
    inputs = batch(*shape)
    want = answer(*inputs)  # starts torch's threads for the larger batch
    context = multiprocessing.get_context("fork")
    children = []
    for _ in range(3):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_answer_of_a_child, args=(theirs, inputs))
        child.start()
        children.append((child, ours))
    for child, ours in children:
        assert ours.poll(120), "a forked process hangs"
        for got, expected in zip(ours.recv(), want, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=0)
        child.join()
        assert child.exitcode == 0
    torch.testing.assert_close(answer(*inputs), want, rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, as on Linux")
def test_a_forked_process_may_use_threads_of_its_own():
    torch.set_num_threads(2)
    inputs = batch(256, 1000)
    want = answer(*inputs).loss.item()  # starts torch's threads
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            values = {x.item() for x in in_threads(4, lambda _: answer(*inputs).loss)}
            os.write(write, b"same" if values == {want} else b"else")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"same"
    os.waitpid(child, 0)
