"""The engine file, its manifest, and the backends that execute its graphs."""
