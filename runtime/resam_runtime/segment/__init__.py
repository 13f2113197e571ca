"""From an image and prompts to instances: the segmenter."""
