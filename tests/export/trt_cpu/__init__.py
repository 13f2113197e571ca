"""TensorRT without a GPU, for tests: see `bindings`."""
