"""kill -9 of planner and recorder just before and just after each of their steps.

Each fails when the step it dies around is not safe to repeat: without the look at what is pending in tally.lua a view
counts twice, without `relocations` looked at before the commit the history has it twice.
"""

from __future__ import annotations

import pytest

from tests.faults.house import House
from tests.faults.proxy import Match, Moment, Proxy, script


async def killed_at(house: House, name: str, match: Match, moment: Moment, server: str = "redis") -> None:
    """New contents are promoted by a service that dies around a request; another takes its place."""
    cids = await house.contents(6)
    with Proxy.before(house.stack.redis_url_of(name) if server == "redis" else house.stack.mysql_url_of(name)) as proxy:
        (victim,) = await house.restart(name, settings={f"RESHELVE_{server.upper()}_URL": proxy.url})
        trap = proxy.trap(match, moment, victim.kill)
        assert await house.view(dict.fromkeys(cids, 1500)) == 202
        await trap.hit()
    await house.restart(name)
    world = await house.judge()
    assert {world.rows[cid][0] for cid in cids} == {"silver"}
    assert sum(cid in cids for _, cid, *_ in world.relocations) == len(cids)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["tally", "claim", "open", "rest"])
async def test_a_planner_killed_at_any_step_leaves_its_work_to_the_next(
    house: House, step: str, moment: Moment
) -> None:
    await killed_at(house, "planner", script(step), moment)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_recorder_killed_around_mysqls_commit_records_each_relocation_once(
    house: House, moment: Moment
) -> None:
    """After it, the commit script never ran: the next recorder finds the moves in `relocations`."""
    await killed_at(house, "recorder", b"COMMIT", moment, "mysql")


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_recorder_killed_around_its_commit_script_orders_each_retire_once(house: House, moment: Moment) -> None:
    await killed_at(house, "recorder", script("commit"), moment)
