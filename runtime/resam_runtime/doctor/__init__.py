"""`resam-doctor`: what this machine has, what each missing part would give, and the command for it."""
