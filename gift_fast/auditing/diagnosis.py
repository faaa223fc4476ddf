"""Which of teacher, test set, distilled set and stored labels has another class order, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gift_fast.auditing.audit_report import Finding, listed
from gift_fast.auditing.class_order import ClassOrder

TOPIC = "class order"

CHANCE = "less than once in a million times"


@dataclass(frozen=True)
class Diagnosis:
    """What follows from comparisons of class orders.

    Attributes:
        findings: in words.
        class_map: what takes the distilled set's labels to the test set's, where that helps.
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
    """Says who agrees with whom, and what would mend it.

    Args:
        test: labels of the test set against the teacher's predictions; None without a teacher.
        distilled: hard labels of the distilled set against the teacher's predictions.
        stored: hard labels of the distilled set against the stored soft labels; None without.
        names: of the classes, in the order of the test set.
        teacher: how to call the teacher.

    Returns:
        Findings, and a class map where one helps. ``--class-map`` moves hard and stored soft labels
        together, so it mends a distilled set that is in another order as a whole, and nothing else.
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
                " The hard labels agree with the teacher, so it is the soft labels that were made "
                "with another order; --class-map, which moves both, does not mend that, but where "
                "they are files of their own --labels-class-map does."
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
        text += f" on the whole. {called(strays, names)}"
        return Diagnosis((Finding("warning" if turns(strays) else "note", TOPIC, text),))
    if not test.strong:
        text += f", but {teacher} knows only {test.at_home} of {test.classes} classes"
        return Diagnosis((Finding("note", TOPIC, f"{text}."),))
    return Diagnosis((Finding("ok", TOPIC, f"{text}."),))


def without_teacher(stored: ClassOrder | None, names: Sequence[str]) -> Diagnosis:
    """What hard and stored soft labels tell where no teacher knows the test set."""
    if stored is None or not (stored.same or stored.permuted):
        return Diagnosis(())
    if not stored.permuted:
        text = (
            "Hard and stored soft labels agree. Whether the test set has the same order takes a "
            "teacher that knows it."
        )
        return Diagnosis((Finding("ok", TOPIC, text),))
    text = (
        "The hard labels and the stored soft labels have their classes in different orders: "
        f"{moves(stored, soft_move(names))} Which of them has the test set's takes a "
        "teacher that knows it."
    )
    return Diagnosis((finding(text, stored),))


def new_strays(distilled: ClassOrder | None, test: ClassOrder) -> dict[int, int]:
    """What most distilled images of a label are called.

    Left out is what a class map accounts for, and the teacher's own mistakes on the test images.
    """
    if distilled is None:
        return {}
    return {
        label: other
        for label, other in distilled.strays
        if (label, other) not in test.strays and distilled.class_map[label] != other
    }


def turns(strays: Mapping[int, int]) -> bool:
    """Whether some labels are called each other, as in another order: mistakes seldom are.

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
    """Strays in a sentence, and what to do."""
    clauses = [f"label {old} are called {new} ({names[new]})" for old, new in strays.items()]
    return (
        f"But most distilled images of {listed(clauses)}: these classes have another order, or "
        "these are mistakes. The images are too few to tell, so look at them."
    )


def distilled_differs(
    test: ClassOrder,
    distilled: ClassOrder,
    stored: ClassOrder | None,
    names: Sequence[str],
    teacher: str,
) -> Diagnosis:
    """Teacher and test set agree with each other and not with the distilled set."""
    moved = moves(distilled, lambda old, new: f"label {old} is what both call {new} ({names[new]})")
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
            " The stored soft labels are in the test set's order: the hard labels alone are wrong"
            if alike
            else " The stored soft labels are in a third order"
        )
        text += "; a class map moves both and does not mend that."
        return Diagnosis((finding(text, distilled),))
    text += (
        " --class-map mends it; `gift-fast audit --write-class-map FILE` writes the file that it "
        "takes."
    )
    return Diagnosis((finding(text, distilled),), distilled.class_map)


def test_differs(
    test: ClassOrder,
    distilled: ClassOrder | None,
    stored: ClassOrder | None,
    names: Sequence[str],
    teacher: str,
) -> Diagnosis:
    """The test set is not in the teacher's order."""
    moved = moves(test, lambda old, new: f"class {old} ({names[old]}) is output {new} of {teacher}")
    if distilled is None or not (distilled.same or distilled.permuted):
        text = (
            f"{capital(teacher)} and the test set have their classes in different orders: {moved} "
            "Whose the distilled set has could not be told."
        )
        return Diagnosis((finding(text, test),))
    # Label of the distilled set -> output of the teacher -> class of the test set.
    class_of = {output: label for label, output in enumerate(test.class_map)}
    onward = tuple(class_of[output] for output in distilled.class_map)
    guessed = {*distilled.guessed, *(onward.index(label) for label in test.guessed)}
    if all(old == new or old in guessed for old, new in enumerate(onward)):
        text = (
            f"The test set and the distilled set agree; the outputs of {teacher} are permuted: "
            f"{moved} A class map does not mend that: take weights that were trained with the "
            "test set's order, or wrap the network so that it reorders its outputs."
        )
        return Diagnosis((finding(text, test),))
    if distilled.same and not distilled.permuted:
        text = (
            f"{capital(teacher)} and the distilled set agree; the test set's classes are permuted: "
            f"{moved} A student would learn the other order and be right by chance alone; load the "
            "test set in the order that both have."
        )
        if stored is None or not stored.same:
            return Diagnosis((finding(text, test),))
        text += (
            " With the stored soft labels in the teacher's place, --class-map mends it too: it "
            "takes the distilled set to the test set's order."
        )
        return Diagnosis((finding(text, test),), onward)
    arrows = listed([f"{old} -> {new}" for old, new in enumerate(onward) if old != new])
    text = (
        f"{capital(teacher)}, the test set and the distilled set have three orders: {moved} "
        f"--class-map takes the distilled set to the test set's order ({arrows}), but {teacher} "
        "stays in its own: it must not label."
    )
    weaker = test if test.probability > distilled.probability else distilled
    return Diagnosis((finding(text, weaker),), onward)


def recognized(distilled: ClassOrder, teacher: str) -> Finding:
    """The teacher finds no order among the test images, but knows the distilled ones."""
    text = (
        f"{capital(teacher)} knows the distilled images ({distilled.agreement:.1f} %) and not the "
        "test images: it belongs to the distilled set, and the test set is another, or reaches it "
        "on another scale."
    )
    return Finding("warning", TOPIC, text)


def unrecognized(test: ClassOrder, distilled: ClassOrder, teacher: str) -> Finding:
    """The teacher knows the test images and finds no order among the distilled ones."""
    from scipy.stats import binom

    hits = round(distilled.images * distilled.agreement / 100)
    text = (
        f"{capital(teacher)} and the test set agree, but {teacher} calls {hits} of "
        f"{distilled.images} distilled images as they are labeled ({distilled.agreement:.1f} %, "
        f"by chance {distilled.chance:.1f} %)"
    )
    if distilled.rearranged is not None and distilled.rearranged > 2 * distilled.chance:
        text += (
            f"; rearranged, {distilled.rearranged:.1f} % would fit, so that a class order may be "
            "part of it, but too few classes stand out to say which"
        )
    text += (
        ". Either the images are on another scale or foreign to this network, or the order differs."
    )
    # Distilled images may be harder than real ones; below half the accuracy something is wrong.
    rare = binom.cdf(hits, distilled.images, test.agreement / 200) < 1e-3
    if not rare:
        text += f" {distilled.images} images are too few to tell."
    return Finding("warning" if rare else "note", TOPIC, text)


def finding(text: str, order: ClassOrder) -> Finding:
    """A permutation as a finding, with how sure it is."""
    severity = "error" if order.certain else "warning"
    return Finding(severity, TOPIC, f"{text} {confidence(order)}")


def moves(order: ClassOrder, clause: Callable[[int, int], str]) -> str:
    """How many classes are moved, and a clause for each of the first: from the old to the new."""
    clauses = listed([clause(label, order.class_map[label]) for label in order.moved])
    return f"{len(order.moved)} of {len(order.class_map)} classes are moved, {clauses}."


def soft_move(names: Sequence[str]) -> Callable[[int, int], str]:
    """A clause of :func:`moves` for soft labels against hard ones."""
    return lambda old, new: f"label {old} is what the soft labels call {new} ({names[new]})"


def confidence(order: ClassOrder) -> str:
    """How well a permutation is founded."""
    fit = (
        f"As they are, {order.agreement:.1f} % of {order.images} images agree, rearranged "
        f"{order.mapped:.1f} %, by chance {order.chance:.1f} %."
    )
    odds = CHANCE if order.certain else f"with probability {order.probability:.1g}"
    if order.images_per_class == 1:
        text = (
            f"{fit} With one image a class nothing can confirm this: it rests on the predictions "
            f"all but differing, which mistakes at random do {odds}."
        )
    else:
        text = (
            f"{fit} One half of the images confirms what the other shows; two classes that merely "
            f"look alike would do so {odds}."
        )
    if order.guessed:
        text += f" Placed by elimination, so look at them: {listed(order.guessed)}."
    return text


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
