"""A run over many scenes: reading, inference and writing, stopped, resumed and watched."""
