"""Measures branchmig beside its peers: `make bench`, or `python -m bench` for single branches and
`python -m bench.fleet` for whole fleets."""
