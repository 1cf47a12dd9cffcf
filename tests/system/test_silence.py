"""When a silent server is asked, and after which answers nothing more is waited for."""

from __future__ import annotations

import pytest

from dbt_bridge.system.silence import Keepalives, Said, Watch

HOUR = 3600


class Lost(Exception):
    pass


class Answers(Watch):
    """Gives these answers, the last one for ever.

    Attributes:
        asked: for each question, whether the connection was to be ended.
    """

    lost = Lost

    def __init__(self, *said: Said) -> None:
        super().__init__(Keepalives())
        self.asked: list[bool] = []
        self._said = list(said)

    def ask(self, *, ends: bool) -> Said:
        self.asked.append(ends)
        return self._said.pop(0) if len(self._said) > 1 else self._said[0]


def listen(watch: Watch, seconds: int) -> int:
    """A look in each second; answers the one in which the connection is given up, 0 for none."""
    for second in range(seconds):
        try:
            watch.look(second)
        except Lost:
            assert watch.is_over
            return second
    return 0


def test_a_server_that_works_is_asked_twice_a_minute() -> None:
    watch = Answers(Said.WORKS)
    assert listen(watch, HOUR) == 0
    assert watch.asked == [False] * (HOUR // 30 - 1)


@pytest.mark.parametrize(
    ("said", "given_up"), [(Said.WAITS_FOR_US, 40), (Said.NOTHING, 60), (Said.UNKNOWN, 60)], ids=str
)
def test_bad_answers_end_it(said: Said, given_up: int) -> None:
    assert listen(Answers(said), HOUR) == given_up
    worked = [Said.WORKS] * 100
    assert listen(Answers(*worked, said), HOUR) == 3000 + given_up, "they count from the last good one"


def test_it_is_ended_at_the_server_where_that_still_waits_for_us() -> None:
    watch = Answers(Said.WAITS_FOR_US)
    listen(watch, HOUR)
    assert watch.asked == [False, True]


@pytest.mark.parametrize("said", [Said.WAITS_FOR_US, Said.NOTHING])
def test_one_bad_answer_is_none_however_long_the_server_has_worked(said: Said) -> None:
    """The answer to a long query may come while the server is asked."""
    assert listen(Answers(*[Said.WORKS] * 100, said, Said.WORKS), HOUR) == 0
    watch = Answers(*[Said.WORKS] * 100, said)
    assert listen(watch, 3031) == 0
    assert listen(watch, 30) == 0, "bytes came"
    assert watch.asked == [False] * 101


def test_a_look_that_comes_late_does_not_end_it_at_once() -> None:
    watch = Answers(Said.WAITS_FOR_US)
    watch.look(HOUR)
    watch.look(HOUR + 5)
    with pytest.raises(Lost):
        watch.look(HOUR + 10)
