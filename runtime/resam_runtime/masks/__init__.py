"""Masks and instances: crops, run lengths, outlines, and the way from the mask grid to scene pixels."""
