"""Text: the alphabet, the cut into windows, the embedded books, and folders of your own."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.data.characters import ALPHABET, codes, folded, windowed
from fedkd.data.datasets import gutenberg_mini
from fedkd.data.datasets.gutenberg_mini import GutenbergMini
from fedkd.data.datasets.text import Text
from fedkd.data.partitioners.natural import Natural
from fedkd.errors import ConfigError, MissingDataError


def spelled(numbers) -> str:
    return "".join(ALPHABET[number] for number in numbers)


def test_the_alphabet_has_what_secrets_are_made_of():
    assert len(ALPHABET) == len(set(ALPHABET)) == 76
    assert set("0123456789#\n abcXYZ.,") <= set(ALPHABET)


@given(st.text())
def test_any_text_folds_into_the_alphabet_and_stays_there(text):
    once = folded(text)
    assert set(once) <= set(ALPHABET)
    assert folded(once) == once
    assert spelled(codes(once)) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("na\u00efve \u201cfa\u00e7ade\u201d \u2014 it\u2019s", 'naive "facade" -- it\'s'),
        ("a\r\nb\tc   d \n\n\n\n e_f", "a\nb c d\n\n ef"),
        ("Stra\u00dfe & [4]\u2026", "Strasse and (4)..."),
    ],
)
def test_folding_by_hand(text, expected):
    assert folded(text) == expected


def test_a_character_outside_is_named():
    with pytest.raises(ConfigError, match="'%' is not in the alphabet"):
        codes("100 %")


def test_windows_follow_one_another_and_the_end_is_the_test():
    text = "".join(ALPHABET[n % 70] for n in range(1003))
    arrays = windowed([("a", codes(text)), ("b", codes(text[::-1]))], window=7, test_fraction=0.2)
    assert spelled(arrays.train_inputs[0]) == text[:7]
    assert spelled(arrays.train_labels[0]) == text[1:8]
    assert spelled(arrays.train_inputs[1]) == text[7:14]
    n = (802 - 1) // 7  # of 803 or 802 characters; the last window needs one more for its label
    assert np.bincount(arrays.strata).tolist() == [n, n]
    assert spelled(arrays.test_inputs[0]) == text[802:809]
    assert arrays.input_shape == (7,)
    assert arrays.task.rows_per_input == 7


def test_the_books_are_of_eight_authors_alike():
    arrays = GutenbergMini().load()
    assert arrays.train_inputs.shape == (7496, 48)
    assert np.bincount(arrays.strata).tolist() == [937] * 8
    assert len(arrays.test_inputs) == 8 * 104
    assert GutenbergMini(window=20).load().input_shape == (20,)
    first = {"Austen": 0, "Milton": 5}
    assert "Mr. Martin" in spelled(arrays.train_inputs[arrays.strata == first["Austen"]][0])
    assert "High on a throne" in spelled(arrays.train_inputs[arrays.strata == first["Milton"]][0])
    whole = "".join(spelled(row) for row in arrays.train_inputs).lower()
    assert "gutenberg" not in whole
    assert whole.count("#") == 0
    used = len(np.unique(arrays.train_labels))
    assert used >= 70, "an alphabet that the text does not use"


def test_its_notice_names_every_book():
    notice = resources.files("fedkd.data").joinpath("gutenberg_mini.LICENSE").read_text("utf-8")
    assert "public domain" in notice
    for author in ("Austen", "Carroll", "Chesterton", "Edgeworth", "Melville", "Milton"):
        assert author in notice
    assert sum(": " in line for line in notice.splitlines()[6:]) == 14


def test_gutenberg_mini_notices_damage(monkeypatch):
    assert "verified" in GutenbergMini().check().detail
    monkeypatch.setattr(gutenberg_mini, "SHA256", "0" * 64)
    assert "damaged" in GutenbergMini().check().detail
    with pytest.raises(ConfigError, match="install fedkd again"):
        GutenbergMini().load()


def save(folder, **texts: str) -> Text:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return Text(root=str(folder), window=10)


def test_a_folder_is_read_in_order_of_names(tmp_path):
    data = save(tmp_path, zoe="no, no! " * 40, adam="yes yes. " * 60)
    (tmp_path / "notes.md").write_text("not read")
    arrays = data.load()
    assert np.bincount(arrays.strata).tolist() == [48, 28]
    assert spelled(arrays.train_inputs[0]) == "yes yes. y"
    assert "2 files" in data.check().detail
    assert Text(root=str(tmp_path), window=10, limit=20).load().train_inputs.shape == (20, 10)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("short", b"only this", r"short.txt: 9 characters .* too few .* longer text"),
        ("latin", "caf\u00e9 ".encode("latin-1") * 50, r"latin.txt: not UTF-8 .*iconv"),
        ("greek", ("\u03b1\u03b2\u03b3 " * 99).encode(), r"greek.txt: only 0 of 297 .*transl"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_a_remedy(tmp_path, name, content, reason):
    data = save(tmp_path, fine="a good text. " * 30)
    (tmp_path / f"{name}.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        data.load()
    assert not data.check().present


def test_a_missing_folder_says_what_to_set(tmp_path):
    with pytest.raises(MissingDataError, match="set root to your folder"):
        Text().load()
    with pytest.raises(MissingDataError, match="there is no folder"):
        Text(root=str(tmp_path / "none")).load()
    with pytest.raises(MissingDataError, match=r"no file \*.txt"):
        Text(root=str(tmp_path)).load()


@pytest.mark.parametrize("n_clients", [1, 3, 8])
def test_natural_gives_whole_authors_evenly(n_clients):
    authors = np.array([7, 7, 2, 2, 2, 9, 9, 9, 9, 4, 5, 6, 8, 8, 3])
    parts = Natural().split(authors, n_clients, rng=np.random.default_rng(0))
    held = [set(authors[rows].tolist()) for rows in parts]
    assert sum(map(len, held)) == 8, "an author has two holders"
    sizes = [len(one) for one in held]
    assert max(sizes) - min(sizes) <= 1
    assert sum(map(len, parts)) == len(authors)
    assert held[0] == set(np.unique(authors)[::n_clients].tolist())


def test_natural_needs_an_author_a_client():
    with pytest.raises(ConfigError, match=r"9 clients, but only 2 strata .* clients=2 or fewer"):
        Natural().split(np.array([0, 1, 1]), 9, rng=np.random.default_rng(0))
