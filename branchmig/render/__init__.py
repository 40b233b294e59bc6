"""Results made fit to be read: JSON documents for programs, tables for people. Floor 6.

Knows values alone: no database, no settings, no decisions. `documents` turns a value into the
JSON shape that is promised for it, `tables` into a page for people, `page` lays such a page out for
a terminal or a pipe, `progress` shows a run while it lasts. Rich is imported when a terminal needs
it and not before: it costs every command its start-up time.
"""
