"""`resam-merge`: the files of a whole run, made from the output folders of its shards."""
