"""resam: adapt SAM to remote-sensing images from points alone."""

__version__ = "0.2.0"
