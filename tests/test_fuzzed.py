"""Damaged arguments for every public function: a right result or a documented refusal, in bounded time and memory."""
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import fuzzed  # noqa: E402

pytestmark = [pytest.mark.reliability, pytest.mark.usefixtures("one_thread")]
fuzzed.load_calls()
CALLS = pytest.mark.parametrize("name", sorted(fuzzed.REGISTRY))


def test_every_public_function_is_called_or_left_out_with_a_reason():
    called = {name.split(" ")[0] for name in fuzzed.REGISTRY}
    public = fuzzed.public()
    assert called | set(fuzzed.LEFT_OUT) == public, (
        sorted(public - called - set(fuzzed.LEFT_OUT)), sorted((called | set(fuzzed.LEFT_OUT)) - public))
    assert not called & set(fuzzed.LEFT_OUT) and all(len(why) > 20 for why in fuzzed.LEFT_OUT.values())


@CALLS
def test_the_good_call_is_right_and_its_errors_are_documented(name):
    fuzzed.sound(fuzzed.REGISTRY[name])
    assert not fuzzed.undocumented(fuzzed.REGISTRY[name])


@CALLS
def test_one_damage(name):
    count, broken = fuzzed.attempt(fuzzed.REGISTRY[name])
    assert not broken, "\n".join(broken)
    assert sum(count.values()) or not fuzzed.REGISTRY[name].make()[1]


@CALLS
def test_several_damages(name, request):
    @settings(max_examples=request.config.getoption("--draws"), deadline=None, derandomize=True, database=None)
    @given(keys=st.lists(st.integers(0, 10**6), min_size=2, max_size=3))
    def several(keys):
        _, broken = fuzzed.attempt(fuzzed.REGISTRY[name], keys)
        assert not broken, "\n".join(broken)
    several()
