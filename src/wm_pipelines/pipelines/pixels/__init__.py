"""What image_eval and video_eval share: families that learn from pictures, on pictures alone or in time."""
