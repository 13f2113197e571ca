"""How the prompter is taught: by clicks, and by the boxes of pseudo-masks."""
