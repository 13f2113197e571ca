"""`resam-annotate`: draw points on scenes in a local page.

store.py holds the points file, operations.py says what a window may do to it, images.py cuts scenes into pieces for the
screen, preview.py asks an engine for masks, server.py speaks HTTP, page/ is what the browser gets.
"""
