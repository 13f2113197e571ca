"""How the tiny base is made: `python -m resam.pretrain` trains a small SAM from nothing on procedural images."""
