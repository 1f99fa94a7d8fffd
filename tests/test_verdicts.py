"""The table of claims: whole, in order, and true to the record."""
import pytest

from mmtutor import verdicts
from mmtutor.course import records


def test_every_claim_of_the_list_is_recorded():
    missing = verdicts.CLAIMS.keys() - records.read("claims").keys()
    assert not missing, f"no record of {', '.join(sorted(missing))}"
    assert len(verdicts.CLAIMS) == 23 and list(verdicts.CLAIMS) == sorted(verdicts.CLAIMS)


def test_rows_say_what_the_record_says():
    claims = records.read("claims")
    for row in verdicts.judged():
        if row.id in claims:
            found = claims[row.id]
            assert row.verdict == found["verdict"] and row.verdict.startswith(row.word)
            assert row.summary == found["summary"] and row.seeds == len(found["seeds"]) >= 3
            assert (records.notebooks_dir() / f"{row.chapter}.ipynb").is_file(), row
    assert sum(verdicts.tally(verdicts.judged()).values()) == 23


def test_holds_when_is_not_holds():
    made_up = {id: {"verdict": verdict, "summary": "a | b", "chapter": "01_x", "command": "c", "seeds": [0, 1, 2]}
               for id, verdict in (("A1", "holds"), ("A2", "holds when it rains"), ("A3", "fails"),
                                   ("A4", "not resolved at this scale: noise"))}
    rows = verdicts.judged(made_up)
    assert [row.word for row in rows[:5]] == ["holds", "holds when", "fails", "not resolved at this scale",
                                              "not recorded"]
    assert verdicts.tally(rows) == {"holds": 1, "holds when": 1, "fails": 1, "not resolved at this scale": 1,
                                    "not recorded": 19}
    text = verdicts.as_markdown(rows)
    assert len(text.splitlines()) == 25 and r"a \| b" in text and "**holds when** it rains" in text


@pytest.mark.bad_input
def test_odd_records_are_named():
    with pytest.raises(ValueError, match="the record has Z9, which no claim is called"):
        verdicts.judged({"Z9": {}})
    with pytest.raises(ValueError, match="A1 has the verdict 'great', expected one of"):
        verdicts.judged({"A1": {"verdict": "great"}})
    with pytest.raises(ValueError, match="the record of A1 has no summary, chapter, command, seeds"):
        verdicts.judged({"A1": {"verdict": "holds"}})
    with pytest.raises(ValueError, match="tally: no verdict 'great'"):
        verdicts.tally([verdicts.judged({})[0]._replace(word="great")])
