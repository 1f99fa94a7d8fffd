"""The dates: words for numbers, phrasings kept apart, days kept apart, vocabularies."""
import datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmtutor.course import dates

days = st.dates(datetime.date(1900, 1, 1), datetime.date(2099, 12, 31))


@pytest.mark.parametrize("day, template, text", [
    ((1998, 5, 3), "the {day} of {month}, {words}", "the third of May, nineteen ninety-eight"),
    ((2005, 12, 21), "{weekday} {dth} {mon} {words}", "Wednesday 21st Dec two thousand and five"),
    ((1900, 2, 12), "{wd} {dth} {mm}/{dd} {words}", "Mon 12th 02/12 nineteen hundred"),
    ((1907, 9, 30), "{day} {m}.{d} {year} {words}", "thirtieth 9.30 1907 nineteen oh seven"),
    ((2000, 1, 2), "{dth} {day} {words}", "2nd second two thousand"),
    ((2010, 8, 23), "{dth} {day} {words}", "23rd twenty-third twenty ten"),
    ((2099, 6, 20), "{dth} {day} {words}", "20th twentieth twenty ninety-nine"),
    ((1911, 3, 11), "{dth} {day} {words}", "11th eleventh nineteen eleven"),
])
def test_write(day, template, text):
    assert dates.write(datetime.date(*day), template) == text


def test_every_day_and_year_has_its_own_words():
    days = {dates.write(datetime.date(2000, 1, d), "{day}") for d in range(1, 32)}
    years = {dates.write(datetime.date(y, 1, 1), "{words}") for y in range(1900, 2100)}
    assert len(days) == 31 and len(years) == 200


def test_a_year_outside_is_refused():
    with pytest.raises(ValueError, match="year 1899, expected 1900 to 2099"):
        dates.write(datetime.date(1899, 1, 1), "{words}")


def test_held_out_phrasings_share_no_core():
    assert not any(held.endswith(core) for held in dates.HELD_OUT for core in dates.CORES)
    assert len(dates.HELD_OUT) == len(set(dates.HELD_OUT)) == 10 and len(dates.CORES) == len(set(dates.CORES))


def test_held_out_days_never_occur_in_training():
    train = dates.examples(3000, dates.TRAINING, 0, held_out=False)
    test = dates.examples(500, dates.HELD_OUT, 0, held_out=True)
    assert not {e.iso for e in train} & {e.iso for e in test}
    assert all(dates.is_held_out(datetime.date.fromisoformat(e.iso)) for e in test)
    share = sum(dates.is_held_out(datetime.date.fromordinal(n)) for n in range(700_000, 710_000)) / 10_000
    assert 0.09 < share < 0.11


def test_examples_repeat():
    draw = lambda seed: dates.examples(20, dates.TRAINING, seed, held_out=False)
    assert draw(1) == draw(1) != draw(2)
    assert all(e.text == dates.write(datetime.date.fromisoformat(e.iso), e.phrasing) for e in draw(3))


@given(day=days, phrasing=st.sampled_from(dates.TRAINING + dates.HELD_OUT))
def test_every_phrasing_of_every_day_can_be_read(day, phrasing):
    text = dates.tokens(dates.write(day, phrasing))
    assert dates.SOURCE.decode(dates.SOURCE.encode([text])[0]) == text


def test_tokens():
    assert dates.tokens("Sun. 3rd, 1998-05") == ["sun", ".", "3", "rd", ",", "1998", "-", "05"]


def test_encode():
    found = dates.examples(5, dates.TRAINING, 0, held_out=False)
    source, target = dates.encode(found)
    assert target.shape == (5, 12) and target[:, 0].eq(1).all() and target[:, -1].eq(2).all()
    assert ["".join(dates.TARGET.decode(row[1:])) for row in target] == [e.iso for e in found]
    assert [int(n) for n in (source > 0).sum(1)] == [len(dates.tokens(e.text)) for e in found]


def test_vocabulary_of_nothing_and_unknown():
    assert dates.SOURCE.encode([]).shape == (0, 0) and dates.SOURCE.encode([[]]).shape == (1, 0)
    assert dates.SOURCE.encode([]).dtype == torch.long
    with pytest.raises(ValueError, match="unknown words .'mai'"):
        dates.SOURCE.encode([["may", "mai"]])


@pytest.mark.bad_input
def test_what_is_no_example_or_no_word_is_refused():
    for count, phrasings in ((-1, dates.TRAINING), (10**9, dates.TRAINING), (1, ())):
        with pytest.raises(ValueError, match="examples: .* expected 0 to 1,000,000 in 1 or more"):
            dates.examples(count, phrasings, 0, held_out=False)
    for numbers in (torch.tensor([-1]), torch.tensor([99]), torch.tensor([1.5]), torch.tensor([[1]])):
        with pytest.raises(ValueError, match="expected one row of whole numbers from 0 to 13"):
            dates.TARGET.decode(numbers)


def test_a_word_that_is_a_sign_of_its_own_is_there_once():
    assert dates.Vocabulary(["a", "", "<stop>"]).words == ("", "<start>", "<stop>", "a")
