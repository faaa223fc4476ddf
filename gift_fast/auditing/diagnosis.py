"""Determines whether teacher, test set, distilled set and stored labels have one class order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gift_fast.auditing.audit_report import Finding
from gift_fast.auditing.class_order import ClassOrder
from gift_fast.files.text_files import first_few

TOPIC = "class order"

CHANCE = "with a probability below one in a million"


@dataclass(frozen=True)
class Diagnosis:
    """The conclusion from several comparisons of class orders.

    Attributes:
        findings: as sentences.
        class_map: maps the distilled set's labels to the test set's, if that helps.
    """

    findings: tuple[Finding, ...]
    class_map: tuple[int, ...] | None = None


def diagnose(
    test: ClassOrder | None,
    distilled: ClassOrder | None,
    stored: ClassOrder | None,
    names: Sequence[str],
    teacher: str = "the teacher",
) -> Diagnosis:
    """Determine which class orders agree, and what to do if they do not.

    Args:
        test: labels of the test set against the teacher's predictions; None without a teacher.
        distilled: hard labels of the distilled set against the teacher's predictions.
        stored: hard labels of the distilled set against stored soft labels; None without them.
        names: of the classes, in the order of the test set.
        teacher: name of the teacher in the findings.

    Returns:
        Findings, and a class map if it would help. ``--class-map`` moves hard and stored soft
        labels together, so it only fixes a set in which both have the same wrong order.
    """
    if test is None:
        return without_teacher(stored, names)
    if not (test.same or test.permuted):
        known = () if distilled is None or not distilled.same else (recognized(distilled, teacher),)
        rest = without_teacher(stored, names)
        return Diagnosis((*known, *rest.findings))
    if test.permuted:
        return test_differs(test, distilled, stored, names, teacher)
    if distilled is not None and distilled.permuted:
        return distilled_differs(test, distilled, stored, names, teacher)
    if stored is not None and stored.permuted:
        text = (
            f"{capital(teacher)} and the test set agree; the stored soft labels have their classes "
            f"in another order than the hard labels: {moves(stored, soft_move(names))}"
        )
        if distilled is not None and distilled.same:
            text += (
                " The hard labels agree with the teacher, so the soft labels were computed in "
                "another order. --class-map moves both and does not fix that; --labels-class-map "
                "does, if the soft labels are in separate files."
            )
        return Diagnosis((finding(text, stored),))
    if distilled is not None and not distilled.same:
        return Diagnosis((unrecognized(test, distilled, teacher),))
    text = f"{capital(teacher)} and the test set agree"
    if distilled is not None:
        text = f"{capital(teacher)}, the test set and the distilled set agree"
        if stored is not None and stored.same:
            text += ", and so do the stored soft labels"
    strays = new_strays(distilled, test)
    if strays:
        text += f" overall. {called(strays, names)}"
        return Diagnosis((Finding("warning" if turns(strays) else "note", TOPIC, text),))
    if not test.strong:
        text += f", but {teacher} knows only {test.at_home} of {test.classes} classes"
        return Diagnosis((Finding("note", TOPIC, f"{text}."),))
    return Diagnosis((Finding("ok", TOPIC, f"{text}."),))


def without_teacher(stored: ClassOrder | None, names: Sequence[str]) -> Diagnosis:
    """Compare hard and stored soft labels if no teacher knows the test set."""
    if stored is None or not (stored.same or stored.permuted):
        return Diagnosis(())
    if not stored.permuted:
        text = (
            "Hard and stored soft labels agree. Only a teacher that knows the test set can show "
            "whether it has the same order."
        )
        return Diagnosis((Finding("ok", TOPIC, text),))
    text = (
        "The hard labels and the stored soft labels have their classes in different orders: "
        f"{moves(stored, soft_move(names))} Only a teacher that knows the test set can show "
        "which of them has its order."
    )
    return Diagnosis((finding(text, stored),))


def new_strays(distilled: ClassOrder | None, test: ClassOrder) -> dict[int, int]:
    """The labels whose distilled images are mostly predicted as one other class.

    Excludes those that a class map explains and the teacher's mistakes on test images.
    """
    if distilled is None:
        return {}
    return {
        label: other
        for label, other in distilled.strays
        if (label, other) not in test.strays and distilled.class_map[label] != other
    }


def turns(strays: Mapping[int, int]) -> bool:
    """Whether some labels form a cycle, as in a permutation; mistakes rarely do.

    Example:
        >>> turns({0: 1, 1: 0}), turns({0: 1, 2: 1})
        (True, False)
    """
    for start in strays:
        label: int | None = start
        for _ in strays:
            label = None if label is None else strays.get(label)
            if label == start:
                return True
    return False


def called(strays: Mapping[int, int], names: Sequence[str]) -> str:
    """A sentence about the strays and what to do."""
    clauses = [f"label {old} are predicted as {new} ({names[new]})" for old, new in strays.items()]
    return (
        f"But most distilled images of {first_few(clauses)}: either the order of these classes is "
        "different, or these are mistakes. There are too few images to decide; look at them."
    )


def distilled_differs(
    test: ClassOrder,
    distilled: ClassOrder,
    stored: ClassOrder | None,
    names: Sequence[str],
    teacher: str,
) -> Diagnosis:
    """The findings if teacher and test set agree, but not with the distilled set."""
    moved = moves(distilled, lambda old, new: f"label {old} is their class {new} ({names[new]})")
    text = (
        f"{capital(teacher)} and the test set agree; the distilled set's classes are permuted: "
        f"{moved}"
    )
    strays = new_strays(distilled, test)
    if strays:
        text += f" {called(strays, names)}"
    if stored is not None and stored.permuted:
        guessed = {*stored.guessed, *distilled.guessed}
        pairs = zip(stored.class_map, distilled.class_map, strict=True)
        alike = all(a == b or label in guessed for label, (a, b) in enumerate(pairs))
        text += (
            " The stored soft labels are in the test set's order: only the hard labels are wrong"
            if alike
            else " The stored soft labels are in a third order"
        )
        text += "; a class map moves both and does not fix that."
        return Diagnosis((finding(text, distilled),))
    text += (
        " --class-map fixes it; `gift-fast audit --write-class-map FILE` writes the file it needs."
    )
    return Diagnosis((finding(text, distilled),), distilled.class_map)


def test_differs(
    test: ClassOrder,
    distilled: ClassOrder | None,
    stored: ClassOrder | None,
    names: Sequence[str],
    teacher: str,
) -> Diagnosis:
    """The findings if test set and teacher have different orders."""
    moved = moves(test, lambda old, new: f"class {old} ({names[old]}) is output {new} of {teacher}")
    if distilled is None or not (distilled.same or distilled.permuted):
        text = (
            f"{capital(teacher)} and the test set have their classes in different orders: {moved} "
            "It could not be determined which of them the distilled set has."
        )
        return Diagnosis((finding(text, test),))
    # Label of the distilled set -> output of the teacher -> class of the test set.
    class_of = {output: label for label, output in enumerate(test.class_map)}
    onward = tuple(class_of[output] for output in distilled.class_map)
    guessed = {*distilled.guessed, *(onward.index(label) for label in test.guessed)}
    if all(old == new or old in guessed for old, new in enumerate(onward)):
        text = (
            f"The test set and the distilled set agree; the outputs of {teacher} are permuted: "
            f"{moved} A class map does not fix that: use weights that were trained with the "
            "test set's order, or a wrapper that reorders the outputs of the network."
        )
        return Diagnosis((finding(text, test),))
    if distilled.same and not distilled.permuted:
        text = (
            f"{capital(teacher)} and the distilled set agree; the test set's classes are permuted: "
            f"{moved} A student would learn the other order and be at chance; load the test set in "
            "the order of the other two."
        )
        if stored is None or not stored.same:
            return Diagnosis((finding(text, test),))
        text += (
            " If the stored soft labels replace the teacher, --class-map fixes it too: it moves "
            "the distilled set to the test set's order."
        )
        return Diagnosis((finding(text, test),), onward)
    arrows = first_few([f"{old} -> {new}" for old, new in enumerate(onward) if old != new])
    text = (
        f"{capital(teacher)}, the test set and the distilled set have three orders: {moved} "
        f"--class-map moves the distilled set to the test set's order ({arrows}), but the order of "
        f"{teacher} stays different, so do not use it for labels."
    )
    weaker = test if test.probability > distilled.probability else distilled
    return Diagnosis((finding(text, weaker),), onward)


def recognized(distilled: ClassOrder, teacher: str) -> Finding:
    """The finding if the teacher recognizes the distilled images, but not the test images."""
    text = (
        f"{capital(teacher)} recognizes the distilled images ({distilled.agreement:.1f} %), but "
        "not the test images: it belongs to the distilled set, and the test set is another one or "
        "has another scale."
    )
    return Finding("warning", TOPIC, text)


def unrecognized(test: ClassOrder, distilled: ClassOrder, teacher: str) -> Finding:
    """The finding if the teacher recognizes the test images, but not the distilled images."""
    from scipy.stats import binom

    hits = round(distilled.images * distilled.agreement / 100)
    text = (
        f"{capital(teacher)} and the test set agree, but {teacher} predicts the label of {hits} of "
        f"{distilled.images} distilled images ({distilled.agreement:.1f} %, "
        f"by chance {distilled.chance:.1f} %)"
    )
    if distilled.rearranged is not None and distilled.rearranged > 2 * distilled.chance:
        text += (
            f"; with rearranged classes, {distilled.rearranged:.1f} % would agree, so the class "
            "order may be part of the cause, but too few classes stand out to determine it"
        )
    text += (
        ". Either the images have another scale, or they differ from the training images, or the "
        "class order differs."
    )
    # Distilled images may be harder than real ones, but half of the accuracy should be reached.
    rare = binom.cdf(hits, distilled.images, test.agreement / 200) < 1e-3
    if not rare:
        text += f" {distilled.images} images are too few to decide."
    return Finding("warning" if rare else "note", TOPIC, text)


def finding(text: str, order: ClassOrder) -> Finding:
    """Convert a permutation to a finding, with its confidence."""
    severity = "error" if order.certain else "warning"
    return Finding(severity, TOPIC, f"{text} {confidence(order)}")


def moves(order: ClassOrder, clause: Callable[[int, int], str]) -> str:
    """State the number of moved classes, with a clause for each of the first."""
    clauses = first_few([clause(label, order.class_map[label]) for label in order.moved])
    return f"{len(order.moved)} of {len(order.class_map)} classes are moved, {clauses}."


def soft_move(names: Sequence[str]) -> Callable[[int, int], str]:
    """A clause of :func:`moves` for soft labels against hard ones."""
    return lambda old, new: f"label {old} is class {new} ({names[new]}) of the soft labels"


def confidence(order: ClassOrder) -> str:
    """A sentence about the evidence for a permutation."""
    fit = (
        f"Unchanged, {order.agreement:.1f} % of {order.images} images agree; rearranged, "
        f"{order.mapped:.1f} %; by chance, {order.chance:.1f} %."
    )
    odds = CHANCE if order.certain else f"with probability {order.probability:.1g}"
    if order.images_per_class == 1:
        text = (
            f"{fit} With one image per class, this cannot be cross-validated; the evidence is that "
            f"nearly all predictions differ, which happens at random {odds}."
        )
    else:
        text = (
            f"{fit} One half of the images confirms the result of the other; for two classes that "
            f"only look alike, this happens {odds}."
        )
    if order.guessed:
        text += f" Determined by elimination, so check them: {first_few(order.guessed)}."
    return text


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
