import asyncio

import pytest

from server.routes.turns import Turns


async def turn_of_each(turns: Turns, callers: int) -> list[int]:
    """Return in which turn of the loop each caller was let on."""
    turn, taken = [0], [-1] * callers

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            turn[0] += 1

    async def call(number: int) -> None:
        await turns.take()
        taken[number] = turn[0]

    counting = asyncio.create_task(count())
    await asyncio.gather(*(call(number) for number in range(callers)))
    counting.cancel()
    return taken


async def test_a_few_are_let_on_in_each_turn_in_order():
    taken = await turn_of_each(Turns(2), 9)
    assert taken == sorted(taken)
    for turn in set(taken):
        assert taken.count(turn) <= 3  # 2, and the counter may run before or behind
    assert taken[-1] - taken[0] >= 3


async def test_who_comes_alone_does_not_wait():
    turns = Turns(1)
    for _ in range(3):
        waiting = asyncio.ensure_future(turns.take())
        await asyncio.sleep(0)
        assert waiting.done()
        await asyncio.sleep(0)


async def test_a_caller_that_gives_up_takes_nobodys_turn():
    turns = Turns(1)
    first = asyncio.ensure_future(turns.take())
    gone = asyncio.ensure_future(turns.take())
    kept = asyncio.ensure_future(turns.take())
    await asyncio.sleep(0)
    assert (first.done(), gone.done(), kept.done()) == (True, False, False)
    gone.cancel()
    await asyncio.wait_for(kept, 60)
    with pytest.raises(asyncio.CancelledError):
        await gone
