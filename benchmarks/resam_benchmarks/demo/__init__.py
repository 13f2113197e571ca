"""The demonstration: train, export, run and measure on synthetic scenes, and one page that shows what came out."""
