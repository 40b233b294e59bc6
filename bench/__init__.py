"""Measures branchmig beside its peers: `make bench`, or `python -m bench`."""
