"""What an operator does by hand in the midst of it: rows changed, levels changed, consumers removed."""

from __future__ import annotations

from tests.faults.house import House, until
from tests.faults.proxy import Proxy


async def changed_before_the_commit(house: House, change: str, copy_to: str = "") -> str:
    """A content that was placed on silver, and whose row and file an operator changed before the commit."""
    (cid,) = await house.contents(1)
    with Proxy.before(house.stack.mysql_url_of("recorder")) as proxy:
        await house.restart("recorder", settings={"RESHELVE_MYSQL_URL": proxy.url})
        trap = proxy.trap(b"LOCK IN SHARE MODE", "before")
        assert await house.view({cid: 1500}) == 202
        await trap.hit()
        if copy_to:
            (house.level_root / copy_to.format(cid)).write_bytes(house.files[cid])
        await house.sql(f"UPDATE contents SET {change} WHERE cid = '{cid}'")
        trap.release()
        await until(lambda: house.waiting("placed", 0), "the recorder is done with it")
        await house.restart("recorder")
    return cid


async def test_a_row_put_on_a_third_level_by_hand_is_respected(house: House) -> None:
    """The operator brought the file there. The relocation is a dead letter; both level changes have their history."""
    cid = await changed_before_the_commit(house, "content_level = 'gold'", "gold/{}.mp4")
    world = await house.judge(counted=False, dead_allowed=True)
    assert world.dead == {cid: "catalog conflict"}
    assert world.rows[cid] == ("gold", f"{cid}.mp4")
    assert [change for change in world.changes if change[0] == cid] == [(cid, "bronze", "gold")]
    await house.start_over()


async def test_a_row_put_on_the_target_by_hand_is_recorded_as_relocated(house: House) -> None:
    cid = await changed_before_the_commit(house, "content_level = 'silver'")
    world = await house.judge()
    assert [row[1:] for row in world.relocations if row[1] == cid] == [(cid, "bronze", "silver")]
    assert [change for change in world.changes if change[0] == cid] == [(cid, "bronze", "silver")]


async def test_a_file_renamed_by_hand_during_its_relocation_is_a_dead_letter(house: House) -> None:
    cid = await changed_before_the_commit(house, "filename = 'renamed.mp4'", "bronze/renamed.mp4")
    (house.level_root / "bronze" / f"{cid}.mp4").unlink()
    (house.level_root / "silver" / f"{cid}.mp4").unlink()
    world = await house.judge(counted=False, dead_allowed=True)
    assert world.dead == {cid: "catalog conflict"}
    assert world.rows[cid] == ("bronze", "renamed.mp4")
    await house.start_over()
