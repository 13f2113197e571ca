"""resam: adapt SAM to remote-sensing images from points alone."""

__version__ = "0.1.0"
