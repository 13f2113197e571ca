"""python -m resam_benchmarks.demo: the same as resam-demo."""

from resam_benchmarks.demo.cli import demo

demo(prog_name="resam-demo")
