"""The page and the report: what both loops did and do, to look at and to steer. Looking computes nothing.

Read in this order: `source.py` (what is read of a home), `views/` (records -> what a view shows, as pydantic
models), `charts.py` and `templates/` (how it looks), then `report.py` (one file) or `app.py` (a server).
"""
