"""What engines find without points, by COCO's own evaluation."""
