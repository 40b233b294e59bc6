"""branchmig: bring the databases of every branch office to one schema revision."""

__version__ = "0.1.0"
