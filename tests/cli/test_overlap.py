"""Reading, work and writing at the same time: order, errors, and what waits."""

import threading

import pytest

from pna.cli.batch import overlap
from pna.errors import PnaError


def test_the_next_is_read_while_one_is_worked_on():
    """Item 0's work waits until item 1 was read: one after the other would never end."""
    was_read = [threading.Event() for _ in range(3)]
    was_written = [threading.Event() for _ in range(3)]

    def read(i):
        was_read[i].set()
        return 10 * i

    def work(i, value):
        if i < 2:
            assert was_read[i + 1].wait(30)
        return value + 1

    def write(i, value):
        was_written[i].set()
        return f"{i}: {value}"

    texts = overlap(range(3), read, work, write)
    assert [text.result() for text in texts] == ["0: 1", "1: 11", "2: 21"]
    assert all(event.is_set() for event in was_written)


def test_one_is_written_while_the_next_is_worked_on():
    worked = threading.Event()

    def work(i, value):
        if i == 1:
            worked.set()
        return value

    def write(i, value):
        if i == 0:
            assert worked.wait(30)
        return str(value)

    assert [t.result() for t in overlap([0, 1], int, work, write)] == ["0", "1"]


@pytest.mark.parametrize("where", ["read", "work", "write"])
def test_an_error_is_that_of_its_item(where):
    def fail(here, i, value):
        if here == where and i == 1:
            raise PnaError(f"{here} {i}")
        return value

    texts = overlap(
        range(4),
        lambda i: fail("read", i, i),
        lambda i, value: fail("work", i, value),
        lambda i, value: fail("write", i, str(value)),
    )
    found = []
    for text in texts:
        try:
            found.append(text.result())
        except PnaError as error:
            found.append(str(error))
    assert found == ["0", f"{where} 1", "2", "3"]


def test_few_are_read_ahead():
    reads, most = [], []

    def work(i, value):
        most.append(len(reads) - i)
        return value

    list(overlap(range(50), lambda i: reads.append(i) or i, work, lambda i, value: ""))
    assert max(most) <= 4


def test_it_stops_when_nobody_asks():
    texts = overlap(range(1000), int, lambda i, value: value, lambda i, value: str(value))
    assert next(texts).result() == "0"
    texts.close()
    assert threading.active_count() < 20
