"""Writers: what a run leaves behind. Each turns plain data into one kind of file."""
