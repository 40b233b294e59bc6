"""The history of HeadOffice's own tables. `branchmig init` runs it; nobody else has to."""
