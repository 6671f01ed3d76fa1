"""What each view shows: functions from a `Snapshot` to a pydantic model. Page, API and report share them."""
