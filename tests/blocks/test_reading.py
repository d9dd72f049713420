"""Reading in one go, in pieces, with padding: always the same; texts that are equal are read once."""

import pytest
import torch

from wm_pipelines.blocks.reading import Reader, TextTower, by_length, once_each, trimmed
from wm_pipelines.blocks.words import PADDING


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reader(depth=3):
    torch.manual_seed(1)
    return Reader(8, depth, 2).double()


def causal(length, batch=2):
    return torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)


@pytest.mark.parametrize("pieces", [[7], [3, 4], [1, 1, 5], [1] * 7])
def test_pieces_after_what_was_kept_equal_the_whole(pieces):
    network, x = reader(), draw(2, 7, 8)
    whole, kept = network(x, causal(7))
    before, found, first = None, [], 0
    for count in pieces:
        rows = slice(first, first + count)
        read, before = network(x[:, rows], causal(first + count)[:, rows], before)
        found.append(read)
        first += count
    torch.testing.assert_close(torch.cat(found, 1), whole)
    for mine, theirs in zip(before, kept, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("last", [0, 1, 3, 7])
def test_what_is_not_wanted_is_not_computed_and_changes_nothing(last):
    network, x = reader(), draw(2, 7, 8)
    mask = torch.ones(2, 7, 7, dtype=torch.bool)
    whole, kept = network(x, mask)
    some, kept_too = network(x, mask, last=last)
    torch.testing.assert_close(some, whole[:, 7 - last :])
    torch.testing.assert_close(kept, kept_too)


def tower(depth, seed=0):
    torch.manual_seed(seed)
    return TextTower(11, 12, 8, depth, 2, 4).double()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_padding_is_not_read(depth):
    tokens = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10]])
    network = tower(depth)
    alone = network(tokens[:1, :3])
    torch.testing.assert_close(network(tokens)[:1], alone)


def test_a_bag_of_words_has_no_order_and_a_reader_has():
    forth, back = torch.tensor([[3, 4, 5]]), torch.tensor([[5, 4, 3]])
    torch.testing.assert_close(tower(0)(forth), tower(0)(back))
    assert not torch.allclose(tower(1)(forth), tower(1)(back))


def test_texts_are_grouped_by_length_and_read_once():
    tokens = torch.zeros(9, 30, dtype=torch.int64)
    for row, length in enumerate([1, 30, 4, 5, 16, 17, 1, 30, 2]):
        tokens[row, :length] = torch.arange(1, length + 1) % 10 + 1
    groups = by_length(tokens)
    assert sorted(torch.cat(groups).tolist()) == list(range(9))
    assert [len(rows) for rows in groups] == [4, 2, 3]
    torch.manual_seed(0)
    network, read = TextTower(11, 30, 8, 1, 2, 4).double(), []

    def counted(texts):
        read.append(len(texts))
        return network(texts)

    torch.testing.assert_close(once_each(counted, tokens), network(tokens))
    assert sum(read) == 7  # two of them stand there twice


def test_columns_of_padding_are_cut_off():
    assert trimmed(torch.tensor([[[1, 2, PADDING]], [[3, PADDING, PADDING]]])).shape == (2, 1, 2)
    assert trimmed(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 1)
