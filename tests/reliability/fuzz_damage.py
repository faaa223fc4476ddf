"""Damages files, as accidents and as attackers do.

:func:`damage` changes one to three things in a folder. What it does depends on the kind of a file:
pickles get programs, archives get bombs, images get false sizes, texts get depth and strange
values, and every file may be cut, flipped, emptied, replaced by a folder, or removed.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

CANARY = "canary"
"""The file that every hostile program would leave beside the folder that is read."""

DECOY = "decoy"
"""The folder beside the one that is read; names with ``..`` and absolute names lead there."""

MIB = 2**20

TORCH = {".pt", ".pth", ".tar", ".ckpt"}
IMAGES = {".png", ".jpg", ".jpeg"}
YAML = {".yaml", ".yml"}


def damage(folder: Path, rng: random.Random) -> str:
    """Damages a folder, and says how in words.

    Args:
        folder: holds whole files.
        rng: every choice is drawn from it.
    """
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
        if not files:
            break
        file = rng.choice(files)
        kind = rng.choice(kinds_of(file))
        try:
            kind(file, rng)
        except Exception:  # an earlier damage has left nothing that this one could be done to
            if file.is_file():
                flip_bits(file, rng)
        done.append(f"{kind.__name__} of {file.relative_to(folder)}")
    return ", ".join(done)


Kind = Callable[[Path, random.Random], None]


def kinds_of(file: Path) -> list[Kind]:
    """What can be done to a file; what is made for its kind comes as often as all the rest."""
    special = next((kinds for suffixes, kinds in SPECIAL if file.suffix.lower() in suffixes), [])
    often = len(ANY) // len(special) if special else 0
    return ANY + special * max(often, 1)


# ---- any file ------------------------------------------------------------------------------------


def truncate(file: Path, rng: random.Random) -> None:
    """Cuts the end off."""
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content) + 1)])


def flip_bits(file: Path, rng: random.Random) -> None:
    """Turns one to 64 bits."""
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice([1, 1, 4, 64]) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def overwrite(file: Path, rng: random.Random) -> None:
    """Puts a number of an extreme size somewhere."""
    content = bytearray(file.read_bytes())
    size = rng.choice([1, 2, 4, 8])
    value = rng.choice([0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1])
    at = rng.randrange(len(content) + 1)
    content[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
    file.write_bytes(content)


def move_block(file: Path, rng: random.Random) -> None:
    """Doubles, drops or moves a part."""
    content = file.read_bytes()
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    at = rng.randrange(len(content) + 1)
    block = content[start:end]
    rest = content if rng.random() < 0.5 else content[:start] + content[end:]
    file.write_bytes(rest[:at] + (block if rng.random() < 0.7 else b"") + rest[at:])


def splice(file: Path, rng: random.Random) -> None:
    """Ends as another file of the folder does, or is another file."""
    others = sorted(p for p in file.parent.rglob("*") if p.is_file() and not p.is_symlink())
    other = rng.choice(others).read_bytes()
    content = file.read_bytes() if rng.random() < 0.7 else b""
    cut = rng.randrange(min(len(content), len(other)) + 1)
    file.write_bytes(content[:cut] + other[cut:])


def random_bytes(file: Path, rng: random.Random) -> None:
    """Has nothing to do with what it was."""
    file.write_bytes(rng.randbytes(rng.choice([1, 8, 100, 5000])))


def empty(file: Path, rng: random.Random) -> None:
    """Holds nothing."""
    file.write_bytes(b"")


def remove(file: Path, rng: random.Random) -> None:
    """Is gone."""
    file.unlink()


def directory(file: Path, rng: random.Random) -> None:
    """Is a folder."""
    file.unlink()
    file.mkdir()


def unreadable(file: Path, rng: random.Random) -> None:
    """Cannot be opened: a link to itself, to nothing or to a folder; or locked, but for root."""
    if rng.random() < 0.3:
        file.chmod(0)
        return
    file.unlink()
    file.symlink_to(rng.choice([file.name, "nothing", "."]))


def rename(file: Path, rng: random.Random) -> None:
    """It, or its folder, has a strange name."""
    parent = file.parent
    victim = file if rng.random() < 0.5 or parent.name == DECOY else parent
    names = [
        "a\nb",
        "-rf",
        "~",
        "%s%n",
        "é\udcff",
        "x" * 200,
        " ",
        ".hidden",
        "99999999999999999999",
    ]
    target = victim.with_name(rng.choice(names) + rng.choice(["", victim.suffix]))
    if victim.parent.name not in ("", "/") and not target.exists() and victim.name != "input":
        os.rename(victim, target)


ANY: list[Kind] = [
    *(truncate, flip_bits, flip_bits, overwrite, overwrite, move_block, splice),
    *(random_bytes, empty, remove, directory, unreadable, rename),
]


# ---- pickles -------------------------------------------------------------------------------------


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):  # type: ignore[misc]  # the one in Python can write any global
    """Writes calls of functions by name, whether they exist or not."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """As the base class does, but for a :class:`Call`."""
        if isinstance(obj, Call):
            module, _, name = obj.function.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            super().save(obj.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def pickled(value: Any, protocol: int = 2) -> bytes:
    """The pickle of a value that may hold calls."""
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def programs(canary: str) -> list[Any]:
    """What an attacker would have unpickling do: leave the canary, or reach inside torch."""
    touch = f"touch {canary}"
    write = f"open({canary!r}, 'w')"
    nested = pickled(Call("os.system", touch))
    return [
        Call("os.system", touch),
        Call("posix.system", touch),
        Call("nt.system", touch),
        Call("subprocess.Popen", ["touch", canary]),
        Call("subprocess.check_output", ["touch", canary]),
        Call("builtins.eval", write),
        Call("__builtin__.eval", write),
        Call("builtins.exec", write),
        Call("builtins.open", canary, "w"),
        Call("builtins.getattr", Call("importlib.import_module", "os"), "system"),
        Call("builtins.__import__", "antigravity"),
        Call("pathlib.Path.touch", Call("pathlib.PosixPath", canary)),
        Call("shutil.copy", "/etc/hostname", canary),
        Call("runpy._run_code", write, {}),
        Call("timeit.timeit", write),
        Call("code.interact"),
        Call("pdb.run", write),
        Call("webbrowser.open", "file:///"),
        Call("pickle.loads", nested),
        Call("_pickle.loads", nested),
        Call("torch.storage._load_from_bytes", nested),
        Call("torch.load", canary),
        Call("torch.serialization.load", io.BytesIO),
        Call("torch.hub.load", "a/b", "c"),
        Call("torch.utils.collect_env.run", touch),
        Call("torch.utils.cpp_extension.load", "x", [canary]),
        Call("torch.distributed.run.main", [canary]),
        Call("torch._dynamo.guards.GuardBuilder.get", write),
        Call("torch.fx.graph_module._forward_from_src", write, {}),
        Call("torch.ops.load_library", canary),
        Call("torch.classes.load_library", canary),
        Call("numpy.load", canary),
        Call("numpy.testing._private.utils.runstring", write, {}),
        Call("numpy.core.multiarray.scalar", Call("numpy.dtype", "O"), nested),
        Call("numpy._core.multiarray.scalar", Call("numpy.dtype", "V100000000000"), b""),
        Call("torch._utils._rebuild_tensor_v2", None, 0, (2**40,), (1,), False, {}),
        Call("torch._utils._rebuild_parameter", 1, 2, 3),
        Call("torch._utils._rebuild_sparse_tensor", torch.sparse_coo, (1, 2, 3)),
        Call("torch._utils._rebuild_qtensor", 1, 2, 3, 4, 5, 6, 7),
        Call("torch._tensor._rebuild_from_type_v2", "f", "t", (), {}),
        Call("torch.nn.Module"),
        Call("torch.Size", [2**62, 2**62]),
        Call("collections.OrderedDict", 5),
        Call("collections.Counter", 2**62),
        Call("builtins.bytearray", 2**40),
        Call("_codecs.encode", "a" * 1000, "punycode"),
        Call("torch.FloatStorage", 2**40),
        Call("torch.device", "cuda:99999"),
        Call("gift_fast.cli.main", ["demo"]),
    ]


def hostile_pickle(file: Path, rng: random.Random) -> None:
    """Holds a program, on its own or inside of what is expected, in any of torch's layouts."""
    program = rng.choice(programs(str(canary_of(file))))
    value = rng.choice(
        [program, [program], {"data": program, "model": program}, (1, {"a": program})]
    )
    layout = rng.randrange(4)
    if layout == 0:
        file.write_bytes(pickled(value, rng.choice([0, 2, 4])))
    elif layout == 1:  # torch's layout before zip: magic number, version, system, contents, keys
        system = {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}
        parts = (0x1950A86A20F9469CFC6C, 1001, system, value, [])
        file.write_bytes(b"".join(pickled(part) for part in parts))
    else:
        entries = read_zip(file) if layout == 2 and zipfile.is_zipfile(file) else {}
        root = next(iter(entries), "archive/").partition("/")[0]
        entries.setdefault(f"{root}/version", b"3\n")
        entries.setdefault(f"{root}/byteorder", b"little")
        entries[f"{root}/data.pkl"] = pickled(value)
        write_zip(file, entries)


def damaged_pickle(file: Path, rng: random.Random) -> None:
    """Its program is damaged, its archive is whole."""
    entries = read_zip(file)
    name = rng.choice([n for n in entries if n.endswith("data.pkl")])
    content = bytearray(entries[name])
    for _ in range(rng.choice([1, 2, 5])):
        at = rng.randrange(len(content))
        if rng.random() < 0.5:
            content[at] = rng.randrange(256)
        else:  # numbers of tensors' sizes, offsets and strides
            content[at : at + 2] = rng.choice([b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"N."])
    entries[name] = bytes(content)
    write_zip(file, entries)


def other_object(file: Path, rng: random.Random) -> None:
    """Is a whole file of another object, or has one in the place of another value."""
    if rng.random() < 0.6:
        value = torch.load(file, weights_only=True)
        value = with_change(value, rng, lambda: odd_value(rng))
    else:
        value = odd_value(rng)
    torch.save(value, file, _use_new_zipfile_serialization=rng.random() < 0.8)


def odd_tensor(rng: random.Random) -> torch.Tensor:
    """A tensor that is hardly ever expected."""
    side = lambda: rng.choice([0, 1, 2, 3, 8, 9])  # noqa: E731
    shape = [side() for _ in range(rng.randrange(6))]
    dtype = rng.choice([
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32),
        *(torch.uint8, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16),
    ])  # fmt: skip
    tensor = torch.zeros(shape).to(dtype)
    choice = rng.randrange(10)
    if choice == 0:
        return torch.full(shape, rng.choice([float("nan"), float("inf"), -1e30, 1e-40]))
    if choice == 1:  # little in the file, much in memory
        return (
            torch.zeros(1).to(dtype).expand(rng.choice([[2**20, 3, 32, 32], [2**40], [6, 2**34]]))
        )
    if choice == 2:
        return torch.zeros(shape).to_sparse() if shape else torch.zeros([])
    if choice == 3:
        return torch.sparse_coo_tensor(
            torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1), [2**40]
        )
    if choice == 4:
        return torch.zeros(shape, device="meta")
    if choice == 5:
        return torch.nn.Parameter(torch.zeros(shape))
    if choice == 6:
        return torch.quantize_per_tensor(torch.zeros(shape), 0.1, 0, torch.quint8)
    if choice == 7:
        return torch.full(shape, rng.choice([2**62, -1, 7]), dtype=torch.int64)
    return tensor


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that a file of plain values and tensors may hold."""
    choice = rng.randrange(14 if depth < 3 else 9)
    if choice < 4:
        return odd_tensor(rng)
    simple = [None, True, -1, 2**70, float("nan"), 1e308, "", "a\0b", "x" * 10_000, b"\xff" * 10, 3]
    if choice < 9:
        return rng.choice(simple)
    if choice == 9:
        return {rng.choice(["data", "label", "model", 1, None, (1,)]): odd_value(rng, depth + 1)}
    if choice == 10:
        nested: Any = []
        for _ in range(rng.choice([10, 300])):
            nested = [nested]
        return nested
    if choice == 11:
        loop: list[Any] = []
        loop.append(loop)
        return loop
    return [odd_value(rng, depth + 1) for _ in range(rng.randrange(8))]


def with_change(value: Any, rng: random.Random, new: Callable[[], Any]) -> Any:
    """The same tree with one part replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        value = dict(value)
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            del value[key]
        elif rng.random() < 0.1:
            value["surplus"] = new()
        else:
            value[key] = with_change(value[key], rng, new)
        return value
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        items = list(value)
        at = rng.randrange(len(items))
        if rng.random() < 0.15:
            del items[at]
        elif rng.random() < 0.1:
            items.insert(at, items[at])
        else:
            items[at] = with_change(items[at], rng, new)
        return items
    return new()


# ---- archives ------------------------------------------------------------------------------------


def read_zip(file: Path) -> dict[str, bytes]:
    """The entries of an archive."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(file: Path, entries: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> None:
    """An archive of these entries."""
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, how)


def archive_bomb(file: Path, rng: random.Random) -> None:
    """A small archive with large entries, or one that says so."""
    entries = read_zip(file)
    data = [name for name in entries if "/data/" in name] or list(entries)
    name = rng.choice(data)
    if rng.random() < 0.3:
        entries[name] = bytes(rng.choice([1, 2, 2, 2, 2, 2, 2, 200]) * MIB)
        write_zip(file, entries, zipfile.ZIP_DEFLATED)
        return
    write_zip(file, entries)
    content = bytearray(file.read_bytes())
    signature, offset = rng.choice([(b"PK\x01\x02", 20), (b"PK\x01\x02", 24), (b"PK\x03\x04", 18)])
    places = [at for at in range(len(content)) if content[at : at + 4] == signature]
    at = rng.choice(places) + offset
    content[at : at + 4] = rng.choice([2**32 - 1, 2**31, 2**33 % 2**32, 10**9]).to_bytes(
        4, "little"
    )
    file.write_bytes(content)


def archive_paths(file: Path, rng: random.Random) -> None:
    """An archive whose entries have names that lead out of it."""
    entries = read_zip(file)
    names = list(entries)
    name = rng.choice(names)
    target = rng.choice(["../canary", str(canary_of(file)), "a\0b", "", "/", "x" * 5000, names[0]])
    entries[target] = entries.pop(name)
    write_zip(file, entries)


@cache
def zeros_in_gzip() -> bytes:
    """16 MiB of zeros."""
    return gzip.compress(bytes(16 * MIB))


def gzip_damage(file: Path, rng: random.Random) -> None:
    """A whole gzip file of damaged contents, or a bomb."""
    if rng.random() < 0.02:
        file.write_bytes(zeros_in_gzip() * 150)
        return
    inner = file.with_name("inner")
    inner.write_bytes(gzip.decompress(file.read_bytes()))
    rng.choice([truncate, flip_bits, overwrite, idx_header])(inner, rng)
    file.write_bytes(gzip.compress(inner.read_bytes(), 1))
    inner.unlink()


def idx_header(file: Path, rng: random.Random) -> None:
    """An IDX file that says another shape."""
    sizes = [rng.choice([0, 1, 28, 2**31, 2**32 - 1]) for _ in range(rng.randrange(9))]
    head = bytes([0, 0, rng.choice([8, 8, 13]), rng.choice([len(sizes), 255])])
    file.write_bytes(head + b"".join(size.to_bytes(4, "big") for size in sizes) + bytes(100))


def safetensors_header(file: Path, rng: random.Random) -> None:
    """A safetensors file whose header says something else."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.2:
        size = rng.choice([0, 2**63, 2**64 - 1, 10**8, length - 1, length + 1])
        file.write_bytes(size.to_bytes(8, "little") + content[8:])
        return
    text = json_text(with_change(header, rng, lambda: odd_json(rng)))
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


# ---- texts ---------------------------------------------------------------------------------------


def odd_json(rng: random.Random) -> Any:
    """A value that JSON can hold and nobody expects."""
    deep: Any = 0
    for _ in range(rng.choice([3, 50])):
        deep = rng.choice([[deep], {"a": deep}])
    decoys = [f"../{DECOY}/decoy.json", "/etc/passwd", "../../..", "a\0b", "\ud800", "~", "."]
    numbers = [0, -1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), 0.5, 1e-320]
    others = [
        None,
        True,
        False,
        "",
        [],
        {},
        [[]],
        "x" * 10_000,
        deep,
        "1e3",
        {"": 0},
        [None] * 1000,
    ]
    return rng.choice([rng.choice(decoys), rng.choice(numbers), rng.choice(others)])


def json_text(value: Any) -> bytes:
    """JSON with all that Python writes; lone surrogates are written as escapes."""
    return json.dumps(value, skipkeys=True).encode()


def json_damage(file: Path, rng: random.Random) -> None:
    """JSON with a value replaced, removed or doubled, or JSON to break a parser."""
    text = file.read_text(encoding="utf-8")
    if rng.random() < 0.15:
        attacks = [
            "[" * 100_000,
            '{"a":' * 100_000,
            "[" * 5000 + "]" * 5000,
            "1" * 5000,
            "NaN",
            '"\\ud800"',
            "﻿" + text,
            text + text,
            text.replace('"', '"' + "a" * 1000, 1),
            "null",
            "[]",
            "{}",
        ]
        file.write_text(rng.choice(attacks), encoding="utf-8")
        return
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        value = with_change(value, rng, lambda: odd_json(rng))
    file.write_bytes(json_text(value))


def encoding_damage(file: Path, rng: random.Random) -> None:
    """The text in another encoding, or no text."""
    text = file.read_text(encoding="utf-8", errors="replace")
    code = rng.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig", "cp037"])
    file.write_bytes(text.encode(code, errors="replace") + rng.choice([b"", b"\xff\xfe", b"\0"]))


def lines_damage(file: Path, rng: random.Random) -> None:
    """Lines that are strange, missing, doubled or lead elsewhere."""
    lines = file.read_text(encoding="utf-8").splitlines()
    strange = [
        *(
            "../decoy/decoy.png\tn01",
            "/etc/passwd\tn01",
            "0 " + "9" * 5000,
            "0 -1",
            "0 0 0",
            "²  1",
        ),
        *("1\t", "\t\t\t", "#", "[", "[1, 0", "x" * 100_000, "0 1e3", "\0", "0 \u0661", "a: b: c"),
    ]
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(lines) + 1)
        choice = rng.random()
        if choice < 0.3 and lines:
            del lines[min(at, len(lines) - 1)]
        elif choice < 0.5 and lines:
            lines.insert(at, rng.choice(lines))
        else:
            lines.insert(at, rng.choice(strange))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def laughs(levels: int) -> str:
    """YAML that is ten times larger with every level of it."""
    lines = ['a0: &a0 ["lol", "lol"]']
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def yaml_damage(file: Path, rng: random.Random) -> None:
    """YAML with programs, bombs, loops and values that are not what they look like."""
    text = file.read_text(encoding="utf-8")
    canary = canary_of(file)
    values = [
        f'!!python/object/apply:os.system ["touch {canary}"]',
        "!!python/name:os.system",
        f"!!python/object/new:subprocess.Popen [[touch, {canary}]]",
        "&a [*a]",
        "&a {a: *a}",
        "[" * 2000 + "]" * 2000,
        "{a: " * 300 + "1" + "}" * 300,
        *("1e3", "yes", "2001-01-01", "!!binary aGVsbG8=", "0x7fffffffffffffffffffffff", "1_0"),
        *(".nan", ".inf", "~", "''", "[]", "{}", "- -", "190:20:30", "!!set {a, b}", "*unknown"),
        *("<<: 1", "? [1, 2]\n  : 3", "!!omap [a: 1]", "|\n  text", "1" * 5000, "'" + "x" * 50_000),
        *("&b [lol, lol]", "\t", "\0", "‮", f"../{DECOY}/decoy.json", "[1, [2, {3: 4}]]"),
    ]
    choice = rng.random()
    if choice < 0.15:
        file.write_text(laughs(rng.choice([3, 9, 12])) + text, encoding="utf-8")
    elif choice < 0.25:
        attacks = ["", "---\n---\n", "[]", "5", "- " * 3000, "a: " * 3000, laughs(9)]
        attacks += [text.replace(": ", ": " + laughs(9).partition(": ")[2].split("\n")[0], 1)]
        file.write_text(rng.choice(attacks), encoding="utf-8")
    elif choice < 0.4:  # the laughs where a value is expected
        lines = text.splitlines()
        keys = [i for i, line in enumerate(lines) if line[:1].isalpha() and ":" in line]
        at = rng.choice(keys)
        lines[at] = lines[at].partition(":")[0] + ": *a8"
        file.write_text(laughs(9) + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        head, colon, _ = lines[at].partition(":")
        lines[at] = (head + colon + " " if colon else "- ") + rng.choice(values)
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")


# ---- images --------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, depth: int, color: int, data: bytes, *more: bytes) -> bytes:
    """A PNG file that says what it is told to."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@cache
def large_png() -> bytes:
    """13,000 x 13,000 grey pixels in 165 kB, within Pillow's limit."""
    packer = zlib.compressobj(9)
    rows = bytes(13_001) * 1000
    return png(
        13_000,
        13_000,
        8,
        0,
        b"".join([*(packer.compress(rows) for _ in range(13)), packer.flush()]),
    )


def image_sizes(file: Path, rng: random.Random) -> None:
    """An image that says that it is huge, empty or of unheard-of pixels."""
    side = lambda: rng.choice([0, 1, 8, 65_535, 2**31 - 1, 10**6, 13_000])  # noqa: E731
    more = []
    if rng.random() < 0.3:
        text = zlib.compress(bytes(64 * MIB if rng.random() < 0.1 else 1000))
        more.append(chunk(rng.choice([b"zTXt", b"iCCP"]), b"a\0\0" + text))
    data = zlib.compress(bytes(1000))
    content = png(
        side(), side(), rng.choice([1, 8, 16, 3]), rng.choice([0, 2, 3, 6, 9]), data, *more
    )
    file.write_bytes(large_png() if rng.random() < 0.01 else content)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
(%pipe%touch CANARY) (w) file
showpage
"""


def other_image(file: Path, rng: random.Random) -> None:
    """An image of another format, mode or size, whatever its name says."""
    choice = rng.randrange(10)
    if choice == 0:
        file.write_bytes(POSTSCRIPT.replace(b"CANARY", str(canary_of(file)).encode()))
        return
    if choice == 1:
        file.write_text('<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>')
        return
    side = rng.choice([1, 7, 8, 40])
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
    image = Image.new(mode, (side, rng.choice([side, 1, 9])))
    if mode == "F":
        image.putpixel((0, 0), rng.choice([float("nan"), float("inf"), 1e30]))
    formats = ["TIFF", "BMP", "GIF", "PNG", "JPEG", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI"]
    stream = io.BytesIO()
    try:
        image.save(stream, rng.choice(formats), **({"save_all": True} if choice == 2 else {}))
    except (OSError, ValueError, KeyError):  # a format that has no such mode
        image.convert("RGB").save(stream, "PNG")
    file.write_bytes(stream.getvalue())


SPECIAL: list[tuple[set[str], list[Kind]]] = [
    (TORCH, [*[hostile_pickle, other_object] * 2, damaged_pickle, archive_bomb, archive_paths]),
    (IMAGES, [image_sizes, other_image]),
    (YAML, [yaml_damage, yaml_damage, encoding_damage, lines_damage]),
    ({".json"}, [json_damage, json_damage, json_damage, encoding_damage]),
    ({".txt"}, [lines_damage, lines_damage, encoding_damage]),
    ({".gz"}, [gzip_damage]),
    ({".safetensors"}, [safetensors_header]),
]  # fmt: skip
"""What is done to files by their suffixes, beside what is done to any."""


def canary_of(file: Path) -> Path:
    """The canary beside the folder ``input`` that a file lies in."""
    inside = next((parent for parent in file.parents if parent.name == "input"), file.parent)
    return inside.parent / CANARY


def copy_input(corpus: Path, place: Path) -> Path:
    """The whole files of a reader, copied to where they are damaged; gives the folder."""
    folder = place / "input"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(corpus, folder)
    return folder
