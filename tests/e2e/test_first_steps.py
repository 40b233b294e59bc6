"""From nothing to a fleet at head, as an operator does it."""

from __future__ import annotations

from office import Office

HEAD = "20251206_UpdateSalesTable"


def test_a_fleet_reaches_head_and_says_so(office: Office) -> None:
    office.add("BR001", "BR002", "BR003")
    report = office.json("apply-all")
    assert report["success"] is True
    assert (report["branchesProcessed"], report["branchesSucceeded"]) == (3, 3)
    assert [row["status"] for row in office.json("status")] == ["Completed"] * 3
    assert {row["lastMigrationApplied"] for row in office.json("status")} == {HEAD}


def test_one_bad_branch_costs_its_neighbours_nothing(office: Office) -> None:
    office.add("BR001", "BR002", "BR003")
    office.database("BR002").parent.mkdir()
    office.database("BR002").write_text("this is no database at all, only some text of a person")
    report = office.json("apply-all", code=1)
    assert report["errorMessage"].startswith("1 of 3 failed: BR002: ")
    assert office.status("BR001")["status"] == office.status("BR003")["status"] == "Completed"
    assert office.status("BR002")["status"] == "Failed"
