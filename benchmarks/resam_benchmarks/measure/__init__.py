"""How things are measured: cases, contenders, the runner, metrics and their statistics."""
