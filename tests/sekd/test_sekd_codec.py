"""The code of a window's counts: exact for any content, small for likely content, refused where it cannot be right."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shammie.core.errors import DataError
from shammie.sekd.codec import Codec, fit_tables
from shammie.sekd.sparse import SparseTargets, join, sample_classes

NOTHING = SparseTargets(torch.zeros(1, dtype=torch.long), *torch.zeros(2, 0, dtype=torch.long))


def ragged(positions):
    """Positions as dicts from class to count."""
    offsets = torch.tensor([0, *itertools.accumulate(map(len, positions))])
    pairs = [pair for position in positions for pair in sorted(position.items())]
    ids, counts = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T.contiguous()
    return SparseTargets(offsets, ids, counts)


def same(left, right):
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in ("offsets", "ids", "counts"))


def zipf(positions, vocabulary, draws, *, seed=0, power=1.0):
    law = torch.arange(1.0, vocabulary + 1).pow(-power)
    generator = torch.Generator().manual_seed(seed)
    return sample_classes((law / law.sum()).log().expand(positions, -1), draws, generator)


@st.composite
def windows(draw):
    """Draws, a vocabulary, some positions and their next tokens, which are often among the classes."""
    draws, vocabulary = draw(st.integers(1, 255)), draw(st.sampled_from([1, 2, 300, 65536, 65537, 200_000, 1 << 31]))
    positions = []
    for _ in range(draw(st.integers(0, 8))):
        ids = draw(st.lists(st.integers(0, vocabulary - 1), max_size=min(draws, 20), unique=True))
        cuts = draw(st.permutations(range(1, draws)))[: len(ids) - 1] if ids else []
        bounds = [0, *sorted(cuts), draws]
        positions.append({i: b - a for i, (a, b) in zip(ids, itertools.pairwise(bounds), strict=False)})
    anything = st.integers(0, vocabulary - 1)
    targets = [draw(st.sampled_from(sorted(p)) | anything if p else anything) for p in positions]
    return draws, vocabulary, positions, targets


@settings(max_examples=200)
@given(windows(), st.data())
def test_any_content_comes_back(case, data):
    draws, vocabulary, positions, targets = case
    pilot = data.draw(st.lists(st.integers(0, len(positions) - 1)) if positions else st.just([]))
    tables = fit_tables(
        ragged([positions[i] for i in pilot]), torch.tensor([targets[i] for i in pilot]).long(), vocabulary, draws
    )
    drawn, following = ragged(positions), torch.tensor(targets, dtype=torch.long)
    codec = Codec(tables)
    assert same(codec.decode(codec.encode(drawn, following), following), drawn)


def test_ids_above_seventeen_bits_do_not_alias():
    drawn = ragged([{5: 1, 5 + (1 << 17): 48, 151_935: 1}, {5 + (1 << 17): 50}, {131_071: 25, 131_072: 25}])
    for pilot, targets in ((NOTHING, torch.zeros(0).long()), (drawn, torch.zeros(3).long())):
        codec = Codec(fit_tables(pilot, targets, 151_936, 50))
        following = torch.tensor([151_935, 7, 131_072])
        assert same(codec.decode(codec.encode(drawn, following), following), drawn)


def tail_mass(drawn, head):
    return (drawn.counts * (drawn.ids >= head)).sum() / drawn.counts.sum()


def test_the_tail_keeps_its_mass():
    law = torch.cat([torch.full((4,), 0.809 / 4), torch.full((2000,), 0.191 / 2000)])
    drawn = sample_classes(law.log().expand(4000, -1), 50, torch.Generator().manual_seed(0))
    assert tail_mass(drawn, 4) == pytest.approx(0.191, abs=0.003)
    codec, targets = Codec(fit_tables(NOTHING, torch.zeros(0).long(), 2004, 50)), torch.zeros(4000).long()
    assert tail_mass(codec.decode(codec.encode(drawn, targets), targets), 4) == tail_mass(drawn, 4)
    # What 7 bits of a probability make of it: 1/50 becomes 2/127.
    sevenths = (drawn.counts * 127).div(50, rounding_mode="floor")
    kept = SparseTargets(drawn.offsets, drawn.ids, sevenths)
    assert tail_mass(kept, 4) < 0.175


def test_bytes_depend_on_the_content_alone():
    drawn, targets = zipf(64, 500, 20), torch.arange(64)
    codec = Codec(fit_tables(drawn, targets, 500, 20))
    row = torch.arange(8, 16)
    alone = codec.encode(drawn.take(row), targets[row])
    for batch in (torch.arange(32), torch.arange(4, 40)):  # the same row among others, as a view into them
        at = (batch == 8).nonzero().item()
        inside = drawn.take(batch).take(torch.arange(at, at + 8))
        assert codec.encode(inside, targets[batch][at : at + 8]) == alone
    other = codec.encode(drawn.take(row + 8), targets[row + 8])
    assert other != alone
    rebuilt = Codec(dataclasses.replace(fit_tables(drawn, targets, 500, 20)))
    assert rebuilt.encode(drawn.take(row), targets[row]) == alone


@pytest.mark.parametrize("draws", [5, 50, 255])
def test_the_code_is_about_as_long_as_the_content_is_surprising(draws):
    vocabulary, positions = 5000, 500
    law = torch.arange(1.0, vocabulary + 1).reciprocal()
    law = (law / law.sum()).log2()
    codec = Codec(fit_tables(zipf(4000, vocabulary, draws, seed=1), torch.full((4000,), 3), vocabulary, draws))
    drawn, targets = zipf(positions, vocabulary, draws, seed=2), torch.full((positions,), 3)
    orders = math.lgamma(draws + 1) * positions - torch.lgamma(drawn.counts + 1.0).sum()
    surprise = -(drawn.counts * law[drawn.ids]).sum() - orders / math.log(2)
    assert 0.99 < 8 * len(codec.encode(drawn, targets)) / surprise < 1.2


def test_the_next_token_costs_little():
    drawn = ragged([{i: 45, 1000 + 7 * i: 5} for i in range(1000)])
    there, absent = torch.arange(1000), torch.full((1000,), 5000)
    short = Codec(fit_tables(drawn, there, 10_000, 50)).encode(drawn, there)
    long = Codec(fit_tables(drawn, absent, 10_000, 50)).encode(drawn, absent)
    assert len(short) < 0.7 * len(long)


def test_a_code_of_other_tables_or_tokens_is_refused():
    drawn, targets = zipf(200, 500, 20), torch.zeros(200).long()
    codec = Codec(fit_tables(drawn, targets, 500, 20))
    data = codec.encode(drawn, targets)
    with pytest.raises(DataError, match="tables and tokens"):
        codec.decode(data, targets + 1)
    for seed in range(5):
        other = Codec(fit_tables(zipf(50, 500, 20, seed=seed, power=0.3), targets[:50], 500, 20))
        with pytest.raises(DataError, match="tables and tokens"):
            other.decode(data, targets)


BAD = {
    "a draw too few": ([{1: 2, 3: 7}], [0], "position 0 has 9 draws, not 10"),
    "an id outside": ([{1: 2, 30: 8}], [0], "below 30"),
    "a count of nothing": ([{1: 10, 3: 0}], [0], "at least once"),
    "a token too many": ([{1: 10}], [0, 0], "1 positions, but 2 next tokens"),
}


@pytest.mark.parametrize(("positions", "targets", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_coded_is_refused(positions, targets, words):
    codec = Codec(fit_tables(NOTHING, torch.zeros(0).long(), 30, 10))
    with pytest.raises(DataError, match=words):
        codec.encode(ragged(positions), torch.tensor(targets))


def test_unordered_classes_are_refused():
    codec = Codec(fit_tables(NOTHING, torch.zeros(0).long(), 30, 10))
    with pytest.raises(DataError, match="must rise"):
        codec.encode(
            SparseTargets(torch.tensor([0, 2]), torch.tensor([4, 3]), torch.tensor([5, 5])), torch.zeros(1).long()
        )


@pytest.mark.parametrize(("vocabulary", "draws"), [(0, 5), (5, 0), (5, 256), ((1 << 31) + 1, 5)])
def test_limits(vocabulary, draws):
    with pytest.raises(DataError, match="cannot code"):
        fit_tables(NOTHING, torch.zeros(0).long(), vocabulary, draws)


def test_positions_without_draws_stay_empty():
    drawn = join([ragged([{}, {3: 10}, {}]), ragged([{}])])
    codec, targets = Codec(fit_tables(NOTHING, torch.zeros(0).long(), 30, 10)), torch.tensor([3, 3, 0, 0])
    found = codec.decode(codec.encode(drawn, targets), targets)
    assert found.offsets.tolist() == [0, 0, 1, 1, 1]
